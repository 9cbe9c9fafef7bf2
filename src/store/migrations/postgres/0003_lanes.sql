-- Stop all nodes before the first of this release starts: nodes of older ones name no condition, and would go through whole tables.
--
-- Schema 3: each index of waiting tasks is let in only by the statements that it was made for. The planner takes an index whose
-- condition a statement does not name for unusable; of two that are usable it chose by the size of the table when the plan was
-- made, and a plan of an empty table went through the whole line for every lane. Both conditions are true of every row.

DROP INDEX tasks_waiting;
DROP INDEX tasks_in_lanes;
CREATE INDEX tasks_waiting ON tasks (queue, rank, run, position, attempt)
    WHERE worker IS NULL AND rank >= -9223372036854775808;
CREATE INDEX tasks_in_lanes ON tasks (queue, lane, rank, run, position, attempt)
    WHERE worker IS NULL AND lane >= '';
