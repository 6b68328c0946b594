"""The figures of a node: counted cheaply, read when asked for, merged over processes, told to Prometheus.

To add a metric: one row in ``catalogue.py``, and readings of it in a source (``sources.py``).
"""

from __future__ import annotations
