//! Making the table, for tests and quick starts; and looking whether it is as it must be, for every start.

use std::{collections::BTreeSet, time::Duration};

use aws_sdk_dynamodb::{
    error::SdkError,
    operation::create_table::CreateTableError,
    types::{
        AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
        ScalarAttributeType, TableDescription, TableStatus, TimeToLiveSpecification,
    },
};
use rhubarb_core::{
    backend::{Result, StoreError},
    table::{INDEXES, Index, PARTITION, SORT, TTL},
};

use super::Table;
use crate::error::{Told, store_error};

/// How long a new table may take to become active.
const LOOKS_MAX: u32 = 600;
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

impl Table {
    /// Creates the table with its indexes, paid by request, and its TTL; returns once it can be used. One that is
    /// there is left as it is. Deployments use the template instead, where it is encrypted and backed up.
    ///
    /// # Errors
    ///
    /// The store cannot be reached, or the table does not become active within a minute.
    pub async fn create(&self) -> Result<()> {
        let what = || self.what("create what is kept");
        let built = |error: aws_sdk_dynamodb::error::BuildError| broken(what(), Told::of(&error).0);
        let mut request =
            self.inner.client.create_table().table_name(self.name()).billing_mode(BillingMode::PayPerRequest);
        request = request.set_attribute_definitions(Some(attributes().map_err(built)?));
        request = request.set_key_schema(Some(key_schema(PARTITION, SORT).map_err(built)?));
        for index in INDEXES {
            request = request.global_secondary_indexes(secondary(index).map_err(built)?);
        }
        match request.send().await {
            Ok(_) => {}
            Err(SdkError::ServiceError(answer))
                if matches!(answer.err(), CreateTableError::ResourceInUseException(_)) =>
            {
                return self.active().await;
            }
            Err(error) => return Err(store_error(what(), &error)),
        }
        self.active().await?;
        let ttl = TimeToLiveSpecification::builder().attribute_name(TTL).enabled(true).build().map_err(built)?;
        let request = self.inner.client.update_time_to_live().table_name(self.name()).time_to_live_specification(ttl);
        request.send().await.map_err(|error| store_error(what(), &error))?;
        Ok(())
    }

    /// Checks that the table is there, with its keys and its indexes.
    ///
    /// # Errors
    ///
    /// It is not, and how to mend that; or the store cannot be reached.
    pub async fn verify(&self) -> Result<()> {
        let table = self.describe().await?;
        let what = || format!("use table `{}`", self.name());
        if !has_keys(table.key_schema(), PARTITION, SORT) {
            return Err(broken(
                what(),
                format!(
                    "its keys are not `{PARTITION}` and `{SORT}`: name another table with `table` in [app] or RHUBARB_TABLE, or deploy the template"
                ),
            ));
        }
        for index in INDEXES {
            let known = table.global_secondary_indexes().iter().find(|known| known.index_name() == Some(index.name));
            if !known.is_some_and(|known| has_keys(known.key_schema(), index.partition, index.sort)) {
                let Index { name, partition, sort, .. } = index;
                return Err(broken(
                    what(),
                    format!(
                        "it has no index `{name}` on `{partition}` and `{sort}`: deploy the template of this version (`rhubarb deploy template`)"
                    ),
                ));
            }
        }
        Ok(())
    }

    async fn describe(&self) -> Result<TableDescription> {
        let answer = self.inner.client.describe_table().table_name(self.name()).send().await;
        let answer = answer.map_err(|error| store_error(format!("use table `{}`", self.name()), &error))?;
        answer.table.ok_or_else(|| broken(format!("use table `{}`", self.name()), "it is not described".to_owned()))
    }

    async fn active(&self) -> Result<()> {
        for _ in 0..LOOKS_MAX {
            if self.describe().await?.table_status() == Some(&TableStatus::Active) {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        let cause = std::io::Error::other("it has not become active within a minute");
        Err(StoreError::unreachable(format!("use table `{}`", self.name()), cause))
    }
}

fn broken(what: String, fix: String) -> StoreError {
    StoreError::Broken { what, fix }
}

type Built<T> = std::result::Result<T, aws_sdk_dynamodb::error::BuildError>;

/// Every attribute that is a key of something.
fn attributes() -> Built<Vec<AttributeDefinition>> {
    let texts = [PARTITION, SORT].into_iter().chain(INDEXES.map(|index| index.partition));
    let numbers = INDEXES.map(|index| index.sort);
    let texts = texts.map(|name| (name, ScalarAttributeType::S));
    let all: BTreeSet<_> = texts.chain(numbers.map(|name| (name, ScalarAttributeType::N))).collect();
    let define = |(name, kind)| AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build();
    all.into_iter().map(define).collect()
}

fn key_schema(partition: &str, sort: &str) -> Built<Vec<KeySchemaElement>> {
    let key = |name, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
    Ok(vec![key(partition, KeyType::Hash)?, key(sort, KeyType::Range)?])
}

fn secondary(index: Index) -> Built<GlobalSecondaryIndex> {
    GlobalSecondaryIndex::builder()
        .index_name(index.name)
        .set_key_schema(Some(key_schema(index.partition, index.sort)?))
        .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build())
        .build()
}

fn has_keys(schema: &[KeySchemaElement], partition: &str, sort: &str) -> bool {
    let has = |name, kind: &KeyType| schema.iter().any(|key| key.attribute_name() == name && key.key_type() == kind);
    has(partition, &KeyType::Hash) && has(sort, &KeyType::Range)
}
