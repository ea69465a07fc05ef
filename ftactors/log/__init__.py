"""The durable event log: rows, storages, and the log that the scheduler appends to."""
