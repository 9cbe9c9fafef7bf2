-- Schema 8: dead letters. A row is a call that has failed for good, written in the commit that says so; it goes when the failure is dealt
-- with. It stays when the run has ended.

CREATE TABLE dead_letters (
    run       INTEGER NOT NULL,
    position  INTEGER NOT NULL,
    attempt   INTEGER NOT NULL,
    commit_no INTEGER NOT NULL,
    event     INTEGER NOT NULL,
    parked    INTEGER NOT NULL,
    activity  TEXT    NOT NULL,
    kind      TEXT    NOT NULL,
    text      TEXT    NOT NULL,
    at        INTEGER NOT NULL,
    PRIMARY KEY (run, position)
) WITHOUT ROWID;
CREATE INDEX dead_letters_by_time ON dead_letters (at, run, position);
