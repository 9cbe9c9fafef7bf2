//! The values of a statement, in the order of its parameters. A value that cannot be encoded is told when the statement runs.

use sqlx::{Arguments, Encode, Postgres, Type, postgres::PgArguments};

/// Bound values.
#[derive(Clone, Default, Debug)]
pub(super) struct Values {
    arguments: PgArguments,
    refused: Option<String>,
}

impl Values {
    /// Adds the value of the next parameter.
    pub(super) fn with<'q, T: Encode<'q, Postgres> + Type<Postgres>>(mut self, value: T) -> Values {
        if let Err(error) = self.arguments.add(value) {
            self.refused.get_or_insert(error.to_string());
        }
        self
    }

    pub(super) fn arguments(self) -> Result<PgArguments, sqlx::Error> {
        match self.refused {
            None => Ok(self.arguments),
            Some(why) => Err(sqlx::Error::Encode(why.into())),
        }
    }
}
