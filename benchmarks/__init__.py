"""Benchmarks of the parts that can be measured without a language model, and campaigns that check promises.

Before DSPy is imported, here and in processes that a benchmark starts: a cache of their own, no price list from the
network, no progress bars.
"""

import os
import tempfile

if "DSPY_CACHEDIR" not in os.environ:
    os.environ["DSPY_CACHEDIR"] = tempfile.mkdtemp(prefix="benchmarks-cache-")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("TQDM_DISABLE", "1")
