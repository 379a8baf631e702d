//! Single items and pages of them: the few calls that everything else is made of.
//!
//! A conditional write that fails brings the item as it is, so that who decides again need not read it first.
//! Calls that get no answer were tried three times; whether they were done is then unknown, and every verb above
//! may be repeated.

use aws_sdk_dynamodb::{
    error::SdkError,
    operation::{delete_item::DeleteItemError, put_item::PutItemError, update_item::UpdateItemError},
    types::{ReturnValue, ReturnValuesOnConditionCheckFailure, Select},
};
use rhubarb_core::{
    backend::Result,
    table::{Index, PARTITION, SORT},
};

use super::{
    Table,
    attributes::{Item, n, s},
    expression::Expression,
};
use crate::error::store_error;

/// What became of a conditional write.
#[derive(Debug)]
pub(crate) enum Written {
    /// Done.
    Done,
    /// Not done; the item as it is, if there is one.
    Differs(Option<Item>),
}

/// Which items of a partition.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// What it is for, as an infinitive.
    pub(crate) what: &'static str,
    /// The index; none for the table itself, which is read consistently.
    pub(crate) index: Option<Index>,
    /// The partition.
    pub(crate) partition: String,
    /// Which part of it.
    pub(crate) range: Range,
    /// From the last to the first.
    pub(crate) backward: bool,
    /// At most so many a page; as many as fit 1 MB where there is none.
    pub(crate) page: Option<usize>,
}

/// Which part of a partition, by the sort key.
#[derive(Clone, Debug)]
pub(crate) enum Range {
    All,
    /// Texts that begin with this.
    Begins(String),
    /// Numbers up to this.
    UpTo(i64),
    /// Numbers between these, both included.
    Between(i64, i64),
}

/// A page of items, and where the next one begins.
pub(crate) type Page = (Vec<Item>, Option<Item>);

impl Query {
    /// All items of a partition of the table.
    pub(crate) fn partition(what: &'static str, partition: impl Into<String>) -> Self {
        let partition = partition.into();
        Self { what, index: None, partition, range: Range::All, backward: false, page: None }
    }

    /// Items of a partition of an index.
    pub(crate) fn index(what: &'static str, index: Index, partition: String, range: Range) -> Self {
        Self { what, index: Some(index), partition, range, backward: false, page: None }
    }

    fn expression(&self) -> (String, Expression) {
        let (partition, sort) = self.index.map_or((PARTITION, SORT), |index| (index.partition, index.sort));
        let mut e = Expression::new();
        let of_partition = format!("{} = {}", e.name(partition), e.value(s(self.partition.as_str())));
        let in_range = match &self.range {
            Range::All => return (of_partition, e),
            Range::Begins(text) => format!("begins_with({}, {})", e.name(sort), e.value(s(text.as_str()))),
            Range::UpTo(last) => format!("{} <= {}", e.name(sort), e.value(n(last))),
            Range::Between(first, last) => {
                format!("{} BETWEEN {} AND {}", e.name(sort), e.value(n(first)), e.value(n(last)))
            }
        };
        (format!("{of_partition} AND {in_range}"), e)
    }
}

impl Table {
    /// What is tried, with the table's name.
    pub(crate) fn what(&self, what: &str) -> String {
        format!("{what} in table `{}`", self.inner.name)
    }

    /// Reads one item as it is now.
    pub(crate) async fn get(&self, what: &str, key: Item) -> Result<Option<Item>> {
        let request = self.inner.client.get_item().table_name(&self.inner.name).set_key(Some(key));
        let answer = request.consistent_read(true).send().await;
        Ok(answer.map_err(|error| store_error(self.what(what), &error))?.item)
    }

    /// Puts an item, if the conditions allow.
    pub(crate) async fn put(&self, what: &str, item: Item, only: &Expression) -> Result<Written> {
        let request = self.inner.client.put_item().table_name(&self.inner.name).set_item(Some(item));
        let answer = request
            .set_condition_expression(only.condition())
            .set_expression_attribute_names(only.names())
            .set_expression_attribute_values(only.values())
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match answer {
            Ok(_) => Ok(Written::Done),
            Err(SdkError::ServiceError(answer)) if answer.err().is_conditional_check_failed_exception() => {
                match answer.into_err() {
                    PutItemError::ConditionalCheckFailedException(failed) => Ok(Written::Differs(failed.item)),
                    _ => Ok(Written::Differs(None)),
                }
            }
            Err(error) => Err(store_error(self.what(what), &error)),
        }
    }

    /// Changes an item, if the conditions allow.
    pub(crate) async fn update(&self, what: &str, key: Item, change: &Expression) -> Result<Written> {
        Ok(match self.update_returning(what, key, change, ReturnValue::None).await? {
            Ok(_) => Written::Done,
            Err(found) => Written::Differs(found),
        })
    }

    /// Changes an item, if the conditions allow, and returns it as it is then; the item as it was otherwise.
    pub(crate) async fn update_and_read(
        &self,
        what: &str,
        key: Item,
        change: &Expression,
    ) -> Result<std::result::Result<Item, Option<Item>>> {
        let written = self.update_returning(what, key, change, ReturnValue::AllNew).await?;
        Ok(written.map(Option::unwrap_or_default))
    }

    async fn update_returning(
        &self,
        what: &str,
        key: Item,
        change: &Expression,
        returned: ReturnValue,
    ) -> Result<std::result::Result<Option<Item>, Option<Item>>> {
        let request = self.inner.client.update_item().table_name(&self.inner.name).set_key(Some(key));
        let answer = request
            .set_update_expression(change.change())
            .set_condition_expression(change.condition())
            .set_expression_attribute_names(change.names())
            .set_expression_attribute_values(change.values())
            .return_values(returned)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match answer {
            Ok(answer) => Ok(Ok(answer.attributes)),
            Err(SdkError::ServiceError(answer)) if answer.err().is_conditional_check_failed_exception() => {
                match answer.into_err() {
                    UpdateItemError::ConditionalCheckFailedException(failed) => Ok(Err(failed.item)),
                    _ => Ok(Err(None)),
                }
            }
            Err(error) => Err(store_error(self.what(what), &error)),
        }
    }

    /// Deletes an item, if the conditions allow. One that is gone is deleted.
    pub(crate) async fn delete(&self, what: &str, key: Item, only: &Expression) -> Result<Written> {
        let request = self.inner.client.delete_item().table_name(&self.inner.name).set_key(Some(key));
        let answer = request
            .set_condition_expression(only.condition())
            .set_expression_attribute_names(only.names())
            .set_expression_attribute_values(only.values())
            .send()
            .await;
        match answer {
            Ok(_) => Ok(Written::Done),
            Err(SdkError::ServiceError(answer))
                if matches!(answer.err(), DeleteItemError::ConditionalCheckFailedException(_)) =>
            {
                Ok(Written::Differs(None))
            }
            Err(error) => Err(store_error(self.what(what), &error)),
        }
    }

    /// Reads a page.
    pub(crate) async fn page(&self, query: &Query, start: Option<Item>) -> Result<Page> {
        let (condition, e) = query.expression();
        let request = self.inner.client.query().table_name(&self.inner.name).key_condition_expression(condition);
        let answer = request
            .set_index_name(query.index.map(|index| index.name.to_owned()))
            .set_expression_attribute_names(e.names())
            .set_expression_attribute_values(e.values())
            .consistent_read(query.index.is_none())
            .scan_index_forward(!query.backward)
            .set_limit(query.page.map(|page| i32::try_from(page).unwrap_or(i32::MAX)))
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(|error| store_error(self.what(query.what), &error))?;
        Ok((answer.items.unwrap_or_default(), answer.last_evaluated_key.filter(|key| !key.is_empty())))
    }

    /// Reads a whole index by one request; none where it holds more than so many items.
    pub(crate) async fn whole_index(&self, what: &str, index: Index, at_most: i32) -> Result<Option<Vec<Item>>> {
        let mut e = Expression::new();
        let projected = [index.partition, index.sort].map(|name| e.name(name)).join(", ");
        let request = self.inner.client.scan().table_name(&self.inner.name).index_name(index.name).limit(at_most);
        let request = request.projection_expression(projected).set_expression_attribute_names(e.names());
        let answer = request.send().await.map_err(|error| store_error(self.what(what), &error))?;
        let is_whole = answer.last_evaluated_key.is_none_or(|key| key.is_empty());
        Ok(is_whole.then(|| answer.items.unwrap_or_default()))
    }

    /// Reads all pages up to `limit` items.
    pub(crate) async fn items(&self, query: &Query, limit: usize) -> Result<Vec<Item>> {
        let (mut found, mut start) = (Vec::new(), None);
        loop {
            let (items, next) = self.page(query, start).await?;
            found.extend(items);
            if next.is_none() || found.len() >= limit {
                found.truncate(limit);
                return Ok(found);
            }
            start = next;
        }
    }

    /// Counts the items of all pages without reading them, up to `at_most`.
    pub(crate) async fn number_of(&self, query: &Query, at_most: Option<u32>) -> Result<u64> {
        let (condition, e) = query.expression();
        let (mut sum, mut start) = (0, None);
        loop {
            let request = self.inner.client.query().table_name(&self.inner.name).select(Select::Count);
            let answer = request
                .set_limit(at_most.map(u32::cast_signed))
                .key_condition_expression(condition.as_str())
                .set_index_name(query.index.map(|index| index.name.to_owned()))
                .set_expression_attribute_names(e.names())
                .set_expression_attribute_values(e.values())
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| store_error(self.what(query.what), &error))?;
            sum += u64::try_from(answer.count).unwrap_or(0);
            start = answer.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() || at_most.is_some_and(|most| sum >= u64::from(most)) {
                return Ok(sum);
            }
        }
    }
}
