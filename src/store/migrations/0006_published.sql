-- Schema 6: what runs show outside. A row is the newest value of a key, written in the commit of the turn that published it; `version` is
-- that change among all of its execution. It stays when the run has ended.

CREATE TABLE published (
    run      INTEGER NOT NULL,
    key      TEXT    NOT NULL,
    version  INTEGER NOT NULL,
    encoding TEXT    NOT NULL,
    value    BLOB    NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;
