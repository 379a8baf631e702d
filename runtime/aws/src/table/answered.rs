//! For tests: a table behind a server that answers as the test says.

use aws_smithy_http_client::test_util::infallible_client_fn;
use aws_smithy_types::body::SdkBody;
use serde_json::Value;

use super::Table;
use crate::connect::Connection;

/// What it is asked, by operation and body, becomes the status and the body of its answer.
pub(crate) fn answered_by(answer: impl Fn(&str, Value) -> (u16, Value) + Send + Sync + 'static) -> Table {
    let client = infallible_client_fn(move |request: http::Request<SdkBody>| {
        let target = request.headers()["x-amz-target"].to_str().unwrap();
        let body: Value = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
        let (status, body) = answer(target.rsplit('.').next().unwrap(), body);
        let answer = http::Response::builder().status(status).header("date", "Fri, 15 Jan 2027 08:00:00 GMT");
        answer.body(SdkBody::from(body.to_string())).unwrap()
    });
    let nowhere = Connection::to_emulator("http://127.0.0.1:1", "eu-central-1");
    Table::new(&Connection::new(nowhere.sdk().to_builder().http_client(client).build()), "table")
}
