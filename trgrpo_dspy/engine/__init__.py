"""How work runs: LM calls through one gate, attempts, flows of tasks, the journal, executors."""
