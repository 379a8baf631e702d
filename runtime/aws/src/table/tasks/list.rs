//! Listing tasks, the newest first: the shards of each queue merged, a page at a time.
//!
//! The index says which tasks, the rows are read as they are now, and what does not fit the filter any more is left
//! out. A page that finds too little after [`LOOKED_AT_MAX`] rows is short, or empty, and still names where the next
//! one begins.

use rhubarb_core::{
    backend::{Cursor, Filter, Page, Result, StoreError, TaskRecord},
    ids::TaskId,
    table::{BY_QUEUE, BY_ROOT, BY_STATE, Index, SHARDS},
    time::Timestamp,
};

use super::DynamoTasks;
use crate::table::{
    access::{Query, Range},
    attributes::number,
    in_order, keys,
    record::Record,
};

/// Rows of a page.
const PAGE_MAX: usize = 1_000;
/// Rows that one page looks at, or a few more.
const LOOKED_AT_MAX: usize = 2_000;

/// A place in the listing: later ones come first.
type Place = (Timestamp, TaskId);

impl DynamoTasks {
    pub(super) async fn list_page(&self, filter: &Filter) -> Result<Page<TaskRecord>> {
        let mut after = filter.cursor.as_ref().map(place_of).transpose()?;
        let limit = filter.limit.clamp(1, PAGE_MAX);
        let partitions = self.partitions(filter).await?;
        let (mut items, mut looked_at) = (Vec::new(), 0);
        loop {
            let places = self.places(&partitions, filter, after, limit).await?;
            let more = places.len() > limit;
            let places = &places[..places.len().min(limit)];
            let ids: Vec<TaskId> = places.iter().map(|(_, id)| *id).collect();
            let now = self.table.now().await?.epoch;
            let rows = self.table.rows(&ids, now).await?;
            looked_at += places.len();
            for (index, place) in places.iter().enumerate() {
                after = Some(*place);
                if let Some(record) = rows.get(&place.1).filter(|record| fits(filter, record)) {
                    items.push(record.shown());
                }
                if items.len() == limit {
                    let more = more || index + 1 < places.len();
                    return Ok(Page { items, next: after.filter(|_| more).map(cursor_of) });
                }
            }
            if !more || looked_at >= LOOKED_AT_MAX {
                return Ok(Page { items, next: after.filter(|_| more).map(cursor_of) });
            }
        }
    }

    /// The partitions of the index that hold what is asked for.
    async fn partitions(&self, filter: &Filter) -> Result<Vec<String>> {
        if let Some(root) = filter.root {
            return Ok((0..SHARDS).map(|shard| keys::root_shard(root, shard)).collect());
        }
        let queues = match &filter.queue {
            Some(queue) => vec![queue.clone()],
            None => self.queue_rows().await?.into_iter().map(|row| row.queue).collect(),
        };
        let partition = |queue, shard| match filter.state {
            Some(state) => keys::state_shard(queue, state, shard),
            None => keys::queue_shard(queue, shard),
        };
        Ok(queues.iter().flat_map(|queue| (0..SHARDS).map(move |shard| partition(queue, shard))).collect())
    }

    /// More than `limit` places after a place, in order; all that are left where there are not so many.
    async fn places(
        &self,
        partitions: &[String],
        filter: &Filter,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Vec<Place>> {
        let since = filter.since.unwrap_or(Timestamp(0)).as_millis();
        let until = after.map_or(i64::MAX, |(at, _)| at.as_millis());
        let index = index_for(filter);
        if since > until {
            return Ok(Vec::new());
        }
        let query = |partition: &String| {
            let range = Range::Between(since, until);
            let mut query = Query::index("list tasks", index, partition.clone(), range);
            (query.backward, query.page) = (true, Some(limit + 1));
            query
        };
        let queries: Vec<Query> = partitions.iter().map(query).collect();
        let mut places = Vec::new();
        for shard in in_order(queries.iter().map(|query| self.places_of_shard(query, after, limit)).collect()).await {
            places.extend(shard?);
        }
        places.sort_unstable_by(|a, b| b.cmp(a));
        places.truncate(limit + 1);
        Ok(places)
    }

    /// The first places of one shard. The index orders by time alone: places of one time are taken all or none.
    async fn places_of_shard(&self, query: &Query, after: Option<Place>, limit: usize) -> Result<Vec<Place>> {
        let (mut found, mut start): (Vec<Place>, _) = (Vec::new(), None);
        loop {
            let (items, next) = self.table.page(query, start).await?;
            let place = |item| Some((Timestamp(number(item, BY_QUEUE.sort)?), keys::id_of(item)?));
            found.extend(items.iter().filter_map(place).filter(|place| after.is_none_or(|after| *place < after)));
            if next.is_none() {
                return Ok(found);
            }
            if let Some((cut, _)) = found.last().copied() {
                let complete = found.iter().take_while(|(at, _)| *at > cut).count();
                if complete > limit {
                    found.truncate(complete);
                    return Ok(found);
                }
            }
            start = next;
        }
    }
}

fn index_for(filter: &Filter) -> Index {
    match (filter.root, filter.state) {
        (Some(_), _) => BY_ROOT,
        (None, Some(_)) => BY_STATE,
        (None, None) => BY_QUEUE,
    }
}

fn fits(filter: &Filter, record: &Record) -> bool {
    !record.tombstone
        && filter.queue.as_ref().is_none_or(|queue| *queue == record.queue)
        && filter.state.is_none_or(|state| state == record.row.state)
        && filter.task.as_ref().is_none_or(|task| *task == record.task)
        && filter.root.is_none_or(|root| record.root == Some(root))
        && filter.since.is_none_or(|since| record.submitted >= since)
}

fn cursor_of((at, id): Place) -> Cursor {
    Cursor(format!("{}/{id}", at.as_millis()))
}

fn place_of(cursor: &Cursor) -> Result<Place> {
    let parts = cursor.0.split_once('/');
    let place = parts.and_then(|(at, id)| Some((Timestamp(at.parse().ok()?), id.parse().ok()?)));
    place.ok_or_else(|| {
        StoreError::Invalid("the cursor is not one of this store's: pass the `next` of a page as it came".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let place = (Timestamp(1_800_000_000_000), TaskId::mint());
        assert_eq!(place_of(&cursor_of(place)).unwrap(), place);
        for text in ["", "5", "x/y", "5/y", "x/0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b"] {
            assert!(place_of(&Cursor(text.into())).is_err(), "{text}");
        }
    }
}
