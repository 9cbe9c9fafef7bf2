//! How to use a server, and the parameters of its URL that are ours and not the driver's.

use std::time::Duration;

use crate::store::{Durability, StoreError, memory::INBOX_LIMIT};

/// How to use a PostgreSQL server.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// The schema that holds everything: lower-case letters, digits and underscores, at most 48 of them. Programs with
    /// different schemas share a database and nothing else.
    pub schema: String,
    /// What survives which failure. Whether it survives the loss of the *server* is up to that server's replication.
    pub durability: Durability,
    /// How many unread messages an inbox takes.
    pub inbox_limit: u32,
    /// How many connections read.
    pub readers: u32,
    /// How many transactional steps run at once, each on a connection of its own.
    pub transactions: u32,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How long one statement may take.
    pub statement_timeout: Duration,
    /// How long a commit waits for a lock that somebody else holds; what needs it then goes its own way.
    pub lock_timeout: Duration,
    /// How long a transaction of ours may stand still before the server ends its session: a quarter of the lease.
    pub idle_timeout: Duration,
    /// For how long a server that cannot be reached is tried again before it is told: half of the lease.
    pub patience: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        PostgresOptions {
            schema: "stent".to_owned(),
            durability: Durability::Full,
            inbox_limit: INBOX_LIMIT,
            readers: 3,
            transactions: 8,
            connect_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_millis(100),
            idle_timeout: Duration::from_millis(2_500),
            patience: Duration::from_secs(5),
        }
    }
}

impl PostgresOptions {
    /// Fits what depends on the lease to it: no transaction of ours stands still for more than a quarter of it, and a server
    /// that cannot be reached for half of it is told.
    #[must_use]
    pub fn for_lease(self, lease: Duration) -> PostgresOptions {
        let statement_timeout = self.statement_timeout.min(lease).max(Duration::from_secs(1));
        PostgresOptions { idle_timeout: lease / 4, patience: lease / 2, statement_timeout, ..self }
    }

    /// Takes the parameters that are ours out of a URL; returns the rest of it.
    pub(super) fn take_from(&mut self, url: &str) -> Result<String, StoreError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = || {
                let number: u32 = value.parse().map_err(|_| unusable(&format!("{name}={value} is not a number")))?;
                if number == 0 { Err(unusable(&format!("{name} must not be 0"))) } else { Ok(number) }
            };
            let millis = || number().map(|millis| Duration::from_millis(millis.into()));
            match name {
                "schema" => self.schema = value.to_owned(),
                "readers" => self.readers = number()?,
                "transactions" => self.transactions = number()?,
                // The one that libpq has too, and in its unit.
                "connect_timeout" => self.connect_timeout = Duration::from_secs(number()?.into()),
                "statement_timeout" => self.statement_timeout = millis()?,
                "lock_timeout" => self.lock_timeout = millis()?,
                "idle_timeout" => self.idle_timeout = millis()?,
                "patience" => self.patience = millis()?,
                _ => rest.push(pair),
            }
        }
        let mut letters = self.schema.chars();
        let first = letters.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_');
        let others = letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !first || !others || self.schema.len() > 48 || self.schema.starts_with("pg_") {
            return Err(unusable(&format!("{:?} is no name for a schema of ours", self.schema)));
        }
        Ok(if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) })
    }
}

fn unusable(why: &str) -> StoreError {
    StoreError::Other(format!("the URL of the PostgreSQL server is not usable: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_tells_our_options_and_the_rest_is_the_drivers() {
        let mut options = PostgresOptions::default();
        let rest = options.take_from("postgres://h/d?sslmode=require&schema=mine&patience=250&application_name=x").unwrap();
        assert_eq!(rest, "postgres://h/d?sslmode=require&application_name=x");
        assert_eq!((options.schema.as_str(), options.patience), ("mine", Duration::from_millis(250)));
        assert_eq!(PostgresOptions::default().take_from("postgres://h/d?schema=a").unwrap(), "postgres://h/d");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for query in ["schema=", "schema=a-b", "schema=\"x", "schema=pg_x", "readers=0", "patience=soon"] {
            assert!(PostgresOptions::default().take_from(&format!("postgres://h/d?{query}")).is_err(), "{query}");
        }
    }
}
