-- Schema 8: results that runs share. `key` is the digest of an activity, a scope and the user's key. A row of `memos` is held by a call of a
-- run (`run`, `position`, `ask`), or has a value, which is MessagePack. `memo_asks` has who waits for a key.

CREATE TABLE memos (
    key      BLOB    PRIMARY KEY,
    stamp    INTEGER NOT NULL,
    run      INTEGER,
    position INTEGER,
    ask      INTEGER,
    value    BLOB,
    until    INTEGER
) WITHOUT ROWID;
CREATE INDEX memos_until ON memos (until) WHERE until IS NOT NULL;

CREATE TABLE memo_asks (
    run      INTEGER NOT NULL,
    position INTEGER NOT NULL,
    ask      INTEGER NOT NULL,
    key      BLOB    NOT NULL,
    PRIMARY KEY (run, position)
) WITHOUT ROWID;
CREATE INDEX memo_asks_by_key ON memo_asks (key, run, position, ask);
