-- Schema 2: several nodes on one file. `state` refines `live` (1 live, 2 draining, 3 dead); `lease` in microseconds;
-- `lingers` is when the node was retired while acts of runs that it kept could not be stopped.

ALTER TABLE nodes ADD COLUMN state INTEGER NOT NULL DEFAULT 3;
ALTER TABLE nodes ADD COLUMN lease INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN can INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN lingers INTEGER;

-- The tags that a node must have to run it, as a JSON array.
ALTER TABLE executions ADD COLUMN needs TEXT NOT NULL DEFAULT '[]';
