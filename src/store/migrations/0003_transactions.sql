-- Schema 3: transactional steps. A row is written by the user's own transaction as its last act, and deleted by the commit
-- that records the step's end. `output` is MessagePack. The key is what lets one attempt of a step commit, and no second.

CREATE TABLE step_results (
    run      INTEGER NOT NULL,
    position INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    output   BLOB    NOT NULL,
    PRIMARY KEY (run, position)
) WITHOUT ROWID;
