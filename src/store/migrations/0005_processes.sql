-- Several processes on one file: how many executions a node had in memory when it renewed last.

ALTER TABLE nodes ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
