//! Who is speaking: the resource of every signal.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use rhubarb_core::config::Vars;

use crate::{names, settings::Settings};

/// Describes this process. `service` is its name unless `OTEL_SERVICE_NAME` says another; on AWS Lambda the
/// function's own name is.
#[must_use]
pub fn describe(settings: &Settings, vars: &dyn Vars, service: &str) -> Resource {
    let of_lambda = lambda(vars);
    let function =
        of_lambda.iter().find(|pair| pair.key.as_str() == names::FAAS_NAME).map(|pair| pair.value.to_string());
    let asked = settings.attributes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let named = settings.attributes.iter().find(|(key, _)| key == names::SERVICE_NAME).map(|(_, name)| name.clone());
    let name = settings.service_name.clone().or(named).or(function).unwrap_or_else(|| service.to_owned());
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("telemetry.sdk.language", "rust"),
            KeyValue::new("telemetry.sdk.name", "opentelemetry"),
            KeyValue::new(names::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
        ])
        .with_attributes(of_lambda)
        .with_attributes(asked)
        .with_service_name(name)
        .build()
}

/// What Lambda says about the place
/// (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html>). A function process has the same
/// variables from its host elsewhere, so the one that only Lambda itself sets decides.
fn lambda(vars: &dyn Vars) -> Vec<KeyValue> {
    if !is_lambda(vars) {
        return Vec::new();
    }
    let text = |key, name| vars.get(name).map(|value| KeyValue::new(key, value));
    let bytes = vars.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE").and_then(|mib| mib.parse::<i64>().ok());
    let memory = bytes.map(|mib| KeyValue::new(names::FAAS_MAX_MEMORY, mib * 1024 * 1024));
    [
        Some(KeyValue::new(names::CLOUD_PROVIDER, "aws")),
        Some(KeyValue::new(names::CLOUD_PLATFORM, "aws_lambda")),
        text(names::CLOUD_REGION, "AWS_REGION"),
        text(names::FAAS_NAME, "AWS_LAMBDA_FUNCTION_NAME"),
        text(names::FAAS_VERSION, "AWS_LAMBDA_FUNCTION_VERSION"),
        text(names::FAAS_INSTANCE, "AWS_LAMBDA_LOG_STREAM_NAME"),
        memory,
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// True in AWS Lambda, where a process stands still between invocations.
#[must_use]
pub fn is_lambda(vars: &dyn Vars) -> bool {
    vars.get("AWS_EXECUTION_ENV").is_some_and(|place| place.starts_with("AWS_Lambda_"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use opentelemetry::Key;

    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn name(pairs: &[(&str, &str)]) -> String {
        let vars = vars(pairs);
        let resource = describe(&Settings::read(&vars).unwrap(), &vars, "worker");
        resource.get(&Key::new(names::SERVICE_NAME)).unwrap().to_string()
    }

    #[test]
    fn what_is_asked_for_beats_lambdas_name_and_that_beats_ours() {
        let lambda = [("AWS_EXECUTION_ENV", "AWS_Lambda_provided.al2023"), ("AWS_LAMBDA_FUNCTION_NAME", "f")];
        assert_eq!(name(&[]), "worker");
        assert_eq!(name(&lambda), "f");
        assert_eq!(name(&[lambda[0], lambda[1], ("OTEL_RESOURCE_ATTRIBUTES", "service.name=s")]), "s");
        assert_eq!(name(&[lambda[0], lambda[1], ("OTEL_SERVICE_NAME", "n")]), "n");
        assert_eq!(name(&[("AWS_LAMBDA_FUNCTION_NAME", "f")]), "worker", "a host sets that one too");
    }
}
