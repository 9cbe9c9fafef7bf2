-- Schema 6: dead letters. A row is a call that has failed for good, written in the commit that says so; it goes when the failure is dealt
-- with. It stays when the run has ended.

CREATE TABLE dead_letters (
    run       bigint  NOT NULL,
    position  bigint  NOT NULL,
    attempt   bigint  NOT NULL,
    commit_no bigint  NOT NULL,
    event     bigint  NOT NULL,
    parked    boolean NOT NULL,
    activity  text    NOT NULL,
    kind      text    NOT NULL,
    text      text    NOT NULL,
    at        bigint  NOT NULL,
    PRIMARY KEY (run, position)
);
CREATE INDEX dead_letters_by_time ON dead_letters (at, run, position);
