-- Schema 6: results that runs share. `key` is the digest of an activity, a scope and the user's key. A row of `memos` is held by a call of a
-- run (`run`, `position`, `ask`), or has a value, which is MessagePack. `memo_asks` has who waits for a key.

CREATE TABLE memos (
    key      bytea  PRIMARY KEY,
    stamp    bigint NOT NULL,
    run      bigint,
    position bigint,
    ask      bigint,
    value    bytea,
    until    bigint
);
CREATE INDEX memos_until ON memos (until) WHERE until IS NOT NULL;

CREATE TABLE memo_asks (
    run      bigint NOT NULL,
    position bigint NOT NULL,
    ask      bigint NOT NULL,
    key      bytea  NOT NULL,
    PRIMARY KEY (run, position)
);
CREATE INDEX memo_asks_by_key ON memo_asks (key, run, position);
