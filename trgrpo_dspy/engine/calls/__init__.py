"""The gate every LM call of a run goes through, and what it needs to know of LMs, slots and backends."""
