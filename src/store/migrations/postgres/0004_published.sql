-- Schema 4: what runs show outside. A row is the newest value of a key, written in the commit of the turn that published it; `version` is
-- that change among all of its execution. It stays when the run has ended.

CREATE TABLE published (
    run      bigint NOT NULL,
    key      text   NOT NULL,
    version  bigint NOT NULL,
    encoding text   NOT NULL,
    value    bytea  NOT NULL,
    PRIMARY KEY (run, key)
);
