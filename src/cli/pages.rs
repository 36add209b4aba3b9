//! Lists, page by page: a store with a million rows costs a command no memory.

use super::Failure;
use super::output::{ListWriter, Row};
use crate::store::{self, Page};

/// How many rows are asked of a store at a time.
const PAGE: u32 = 500;

/// Which part of a list is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window<Id> {
    /// Only rows after this one.
    pub(super) after: Option<Id>,
    /// At most so many; none: all.
    pub(super) limit: Option<u32>,
}

/// Writes the rows of the window and ends the list; `describe` gives a row's id and its values.
pub(super) async fn write_pages<T, Id: Copy + ToString>(
    mut writer: ListWriter<'_>,
    window: Window<Id>,
    fetch: impl AsyncFn(Option<Id>, u32) -> store::Result<Page<T>>,
    describe: impl Fn(&T) -> (Id, Row),
) -> Result<(), Failure> {
    let mut after = window.after;
    let mut left = window.limit;
    loop {
        let page = fetch(after, left.map_or(PAGE, |left| left.min(PAGE))).await?;
        for item in &page.items {
            let (id, row) = describe(item);
            writer.push(row)?;
            after = Some(id);
            left = left.map(|left| left.saturating_sub(1));
        }
        if !page.more || page.items.is_empty() || left == Some(0) {
            let next = after.filter(|_| page.more).map(|after| after.to_string());
            return Ok(writer.finish(next)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::output::Format;
    use super::*;

    /// Rows 1 to `count`; the answer, and the pages that were asked for.
    fn list(count: u32, window: Window<u32>) -> (String, Vec<(Option<u32>, u32)>) {
        let asked = RefCell::new(Vec::new());
        let fetch = async |after: Option<u32>, limit: u32| {
            asked.borrow_mut().push((after, limit));
            let first = after.unwrap_or(0) + 1;
            let last = count.min(first + limit - 1);
            Ok(Page { items: (first..=last).collect(), more: last < count })
        };
        let mut out = Vec::new();
        let writer = ListWriter::begin(Format::Json, &["n"], &["n"], &mut out).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let described = |item: &u32| (*item, Row::new().with("n", *item));
        runtime.block_on(write_pages(writer, window, fetch, described)).unwrap();
        (String::from_utf8(out).unwrap(), asked.into_inner())
    }

    #[test]
    fn a_list_is_read_to_its_end_or_to_the_limit() {
        for (count, after, limit, rows, next, pages) in [
            (0, None, None, 0, "null", vec![(None, PAGE)]),
            (3, None, None, 3, "null", vec![(None, PAGE)]),
            (1200, None, None, 1200, "null", vec![(None, PAGE), (Some(500), PAGE), (Some(1000), PAGE)]),
            (1200, Some(1100), None, 100, "null", vec![(Some(1100), PAGE)]),
            (1200, None, Some(2), 2, "\"2\"", vec![(None, 2)]),
            (1200, None, Some(501), 501, "\"501\"", vec![(None, PAGE), (Some(500), 1)]),
            (3, None, Some(3), 3, "null", vec![(None, 3)]),
        ] {
            let (answer, asked) = list(count, Window { after, limit });
            assert_eq!(answer.matches("\"n\":").count(), rows, "{count} {after:?} {limit:?}");
            assert!(answer.ends_with(&format!("\"next\":{next}}}\n")), "{answer}");
            assert_eq!(asked, pages);
        }
    }
}
