//! Two items written together or not at all. Each costs twice what it costs alone.

use aws_sdk_dynamodb::{
    error::{BuildError, SdkError},
    operation::transact_write_items::TransactWriteItemsError,
    types::{CancellationReason, Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update},
};
use rhubarb_core::backend::{Result, StoreError};

use super::{Table, attributes::Item, expression::Expression};
use crate::error::store_error;

/// What became of a transaction.
#[derive(Debug)]
pub(crate) enum Transacted {
    /// All of it is written.
    Done,
    /// Nothing is: of each item, in order, whether its conditions failed, and what was there.
    Differs(Vec<Checked>),
    /// Nothing is: another transaction was at the same items. It may be tried again.
    Busy,
}

/// What the conditions of one item of a transaction came to.
#[derive(Debug)]
pub(crate) enum Checked {
    /// They hold.
    Holds,
    /// They do not, on this item.
    Fails(Option<Item>),
}

/// One write of a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    /// Puts an item, if the conditions allow.
    Put(Item, Expression),
    /// Changes the item of a key, if the conditions allow.
    Update(Item, Expression),
    /// Deletes the item of a key, if the conditions allow.
    Delete(Item, Expression),
}

impl Write {
    fn of(self, table: &str) -> std::result::Result<TransactWriteItem, BuildError> {
        let found = ReturnValuesOnConditionCheckFailure::AllOld;
        let item = TransactWriteItem::builder();
        Ok(match self {
            Self::Put(put, only) => item.put(
                Put::builder()
                    .table_name(table)
                    .set_item(Some(put))
                    .set_condition_expression(only.condition())
                    .set_expression_attribute_names(only.names())
                    .set_expression_attribute_values(only.values())
                    .return_values_on_condition_check_failure(found)
                    .build()?,
            ),
            Self::Update(key, change) => item.update(
                Update::builder()
                    .table_name(table)
                    .set_key(Some(key))
                    .set_update_expression(change.change())
                    .set_condition_expression(change.condition())
                    .set_expression_attribute_names(change.names())
                    .set_expression_attribute_values(change.values())
                    .return_values_on_condition_check_failure(found)
                    .build()?,
            ),
            Self::Delete(key, only) => item.delete(
                Delete::builder()
                    .table_name(table)
                    .set_key(Some(key))
                    .set_condition_expression(only.condition())
                    .set_expression_attribute_names(only.names())
                    .set_expression_attribute_values(only.values())
                    .build()?,
            ),
        }
        .build())
    }
}

impl Table {
    /// Writes all of it, or nothing.
    pub(crate) async fn transact(&self, what: &str, writes: Vec<Write>) -> Result<Transacted> {
        let items: std::result::Result<Vec<_>, _> = writes.into_iter().map(|write| write.of(self.name())).collect();
        let items = items.map_err(|error| StoreError::unreachable(self.what(what), error))?;
        let error = match self.inner.client.transact_write_items().set_transact_items(Some(items)).send().await {
            Ok(_) => return Ok(Transacted::Done),
            Err(error) => error,
        };
        if let SdkError::ServiceError(answer) = &error
            && let TransactWriteItemsError::TransactionCanceledException(cancelled) = answer.err()
        {
            let told = || std::io::Error::other(cancelled.message().unwrap_or_default().to_owned());
            return outcome(cancelled.cancellation_reasons())
                .ok_or_else(|| StoreError::unreachable(self.what(what), told()));
        }
        Err(store_error(self.what(what), &error))
    }
}

/// Why a transaction was cancelled; none where it is something that may pass, as a throttled table.
fn outcome(reasons: &[CancellationReason]) -> Option<Transacted> {
    let is = |reason: &CancellationReason, code: &str| reason.code() == Some(code);
    if reasons.iter().any(|reason| is(reason, "ConditionalCheckFailed")) {
        let checked = |reason: &CancellationReason| {
            let fails = is(reason, "ConditionalCheckFailed");
            // An item that is not there comes as an empty one.
            if fails { Checked::Fails(reason.item.clone().filter(|item| !item.is_empty())) } else { Checked::Holds }
        };
        return Some(Transacted::Differs(reasons.iter().map(checked).collect()));
    }
    reasons.iter().any(|reason| is(reason, "TransactionConflict")).then_some(Transacted::Busy)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::table::{answered::answered_by, keys};

    async fn cancelled_for(codes: [&'static str; 2]) -> Result<Transacted> {
        let table = answered_by(move |_, _| {
            let reasons = codes.map(|code| json!({"Code": code, "Message": "m"}));
            (400, json!({"__type": "TransactionCanceledException", "Message": "m", "CancellationReasons": reasons}))
        });
        let write = Write::Delete(keys::of("a", "b"), Expression::new());
        table.transact("write both", vec![write.clone(), write]).await
    }

    #[tokio::test]
    async fn a_cancelled_transaction_says_whose_conditions_failed() {
        let failed = cancelled_for(["None", "ConditionalCheckFailed"]).await.unwrap();
        let Transacted::Differs(checked) = failed else { panic!("{failed:?}") };
        assert!(matches!(checked[..], [Checked::Holds, Checked::Fails(None)]), "{checked:?}");
    }

    #[tokio::test]
    async fn one_that_met_another_may_be_tried_again() {
        assert!(matches!(cancelled_for(["TransactionConflict", "None"]).await, Ok(Transacted::Busy)));
    }

    #[tokio::test]
    async fn one_that_was_throttled_is_out_of_reach() {
        let error = cancelled_for(["None", "ThrottlingError"]).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
    }
}
