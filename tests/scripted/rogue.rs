//! Children that break the rules of the Runtime API, each in its own manner, without any runtime client.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::exit,
};

/// Breaks the rules in this manner.
pub(crate) fn run(manner: &str) {
    let address = std::env::var("AWS_LAMBDA_RUNTIME_API").unwrap_or_default();
    match manner {
        "exits-at-start" => {
            eprintln!("the model file is missing");
            exit(3);
        }
        "never-asks" => std::thread::park(),
        _ => serve(&address, manner),
    }
}

fn serve(address: &str, manner: &str) {
    loop {
        let next = request(address, "GET", "/2018-06-01/runtime/invocation/next", "");
        let Some(id) = header(&next, "lambda-runtime-aws-request-id") else { exit(1) };
        let answer = |id: &str, body: &str| {
            request(address, "POST", &format!("/2018-06-01/runtime/invocation/{id}/response"), body)
        };
        match manner {
            "garbage" => drop(answer(&id, "\u{1}not json{{{")),
            "stranger" => drop(answer(&id, r#"{"batchItemFailures":[{"itemIdentifier":"nobody"}]}"#)),
            "twice" => {
                answer(&id, "{}");
                let second = answer(&id, r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#);
                note(&second);
            }
            "wrong-request" => {
                let refused = answer("11111111-1111-1111-1111-111111111111", "{}");
                note(&refused);
                answer(&id, "{}");
            }
            "never-answers" => std::thread::park(),
            other => {
                eprintln!("no such manner: {other}");
                exit(2)
            }
        }
    }
}

/// Notes the status of an answer that must be a refusal: what is printed after an answer is nobody's output.
fn note(answer: &str) {
    let status = answer.lines().next().unwrap_or_default();
    if std::fs::write("refused", format!("{status}\n")).is_err() {
        exit(1);
    }
}

fn request(address: &str, method: &str, path: &str, body: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { exit(1) };
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    if stream.write_all((head + body).as_bytes()).is_err() {
        exit(1);
    }
    let mut text = Vec::new();
    // What came before an error is the answer.
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn header(response: &str, name: &str) -> Option<String> {
    let mut lines = response.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
}
