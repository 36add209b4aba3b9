//! Lists of an admin API: the one row that a person means, and all rows, page by page.

use serde_json::Value;
use uuid::Uuid;

use super::{Server, items, path, unreadable};
use crate::cli::output::{ListWriter, Row};
use crate::cli::{Context, Exit, Failure};

/// Rows asked for at a time.
const PAGE: u32 = 1_000;

impl Server {
    /// The id of the client that a person means: an id, else a name.
    ///
    /// # Errors
    /// There is none, or several bear the name.
    pub(in crate::cli) async fn client(&self, named: &str) -> Result<Uuid, Failure> {
        if let Ok(id) = named.parse() {
            return Ok(id);
        }
        let found = self.get_list(&path("/v1/clients", &[("name", named)])).await?;
        let ids: Vec<&str> = items(&found).iter().filter_map(|client| client["id"].as_str()).collect();
        match ids.as_slice() {
            [] => Err(Failure::not_found(format!("there is no client `{named}`"))),
            [id] => id.parse().map_err(|_| unreadable()),
            several => {
                let detail =
                    format!("{} clients are named `{named}`; name one by its id: {}", ids.len(), several.join(", "));
                Err(Failure::new(Exit::Failed, "ambiguous", detail))
            }
        }
    }

    /// The id of what a person means by `named`: an id, else the one row of a list that is filtered so.
    ///
    /// # Errors
    /// There is none.
    pub(in crate::cli) async fn one(
        &self,
        list: &str,
        parameter: &str,
        named: &str,
        what: &str,
    ) -> Result<Uuid, Failure> {
        if let Ok(id) = named.parse() {
            return Ok(id);
        }
        let found = self.get_list(&path(list, &[(parameter, named)])).await?;
        let id = items(&found).first().and_then(|row| row["id"].as_str()).and_then(|id| id.parse().ok());
        // Somebody may have pasted a secret: only what is short is repeated.
        let shown = if named.len() <= 36 { named } else { "of this id" };
        id.ok_or_else(|| Failure::not_found(format!("there is no {what} `{shown}`")))
    }

    /// All rows of a list, page by page.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub(in crate::cli) async fn all(&self, list: &str) -> Result<Vec<Value>, Failure> {
        let mut rows = Vec::new();
        let (limit, mut after) = (PAGE.to_string(), None::<String>);
        loop {
            let mut query = vec![("limit", limit.as_str())];
            query.extend(after.as_deref().map(|after| ("after", after)));
            let page = self.get_list(&path(list, &query)).await?;
            rows.extend_from_slice(items(&page));
            after = page["next"].as_str().map(ToOwned::to_owned);
            if after.is_none() {
                return Ok(rows);
            }
        }
    }

    /// Writes a list, page by page.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub(in crate::cli) async fn write_list(
        &self,
        list: &str,
        query: &[(&str, &str)],
        (all, shown): (&'static [&'static str], &'static [&'static str]),
        (after, limit): (Option<String>, Option<u32>),
        to: (&Context, &mut dyn std::io::Write),
    ) -> Result<(), Failure> {
        self.write_rows(list, query, (all, shown), (after, limit), to, |item| Row::read(all, item)).await
    }

    /// The same, each row as `describe` says.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub(in crate::cli) async fn write_rows(
        &self,
        list: &str,
        query: &[(&str, &str)],
        (all, shown): (&'static [&'static str], &'static [&'static str]),
        (after, limit): (Option<String>, Option<u32>),
        (context, out): (&Context, &mut dyn std::io::Write),
        describe: impl Fn(&Value) -> Row,
    ) -> Result<(), Failure> {
        let mut writer = ListWriter::begin(context.format, all, shown, out)?;
        let (mut after, mut left) = (after, limit);
        loop {
            let page = left.map_or(PAGE, |left| left.min(PAGE)).to_string();
            let mut query = query.to_vec();
            query.push(("limit", &page));
            if let Some(after) = &after {
                query.push(("after", after));
            }
            let answer = self.get_list(&path(list, &query)).await?;
            for item in items(&answer) {
                writer.push(describe(item))?;
                left = left.map(|left| left.saturating_sub(1));
            }
            after = answer["next"].as_str().map(ToOwned::to_owned);
            if after.is_none() || left == Some(0) {
                return Ok(writer.finish(after)?);
            }
        }
    }
}
