//! Measures what a function process can take: invocations a second, and the time to the first `next`.
//!
//! `cargo run --release -p rhubarb-host --example invocations [INVOCATIONS] [PROCESSES] [STARTS]`

use std::env;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use rhubarb_host::process::{FunctionProcess, ProcessSpec};
use rhubarb_host::runtime_api::{Invocation, Routes};

const EVENT: &str = r#"{"Records":[{"messageId":"0199a8a0-0000-7000-8000-000000000001","receiptHandle":"x","body":"{\"v\":1,\"task\":\"noop\",\"args\":{\"i\":1}}","attributes":{"ApproximateReceiveCount":"1"},"messageAttributes":{},"eventSource":"aws:sqs"}]}"#;
const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:noop";

struct NoRoutes;

#[async_trait]
impl Routes for NoRoutes {
    async fn call(&self, _: Request<Bytes>) -> Response<Bytes> {
        Response::new(Bytes::new())
    }
}

fn argument(index: usize, default: usize) -> Result<usize, std::num::ParseIntError> {
    env::args().nth(index).map_or(Ok(default), |text| text.parse())
}

async fn drain(process: FunctionProcess, invocations: usize) -> Result<Duration, String> {
    let began = Instant::now();
    for n in 0..invocations {
        let deadline = SystemTime::now() + Duration::from_secs(60);
        let event = Bytes::from_static(EVENT.as_bytes());
        let id = uuid::Uuid::from_u128(n as u128).to_string();
        let invocation = Invocation::new(id, deadline, event, ARN);
        process.invoke(invocation).await.map_err(|end| end.to_string())?;
    }
    let took = began.elapsed();
    process.kill().await;
    Ok(took)
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let invocations = argument(1, 50_000)?;
    let processes = argument(2, 2)?;
    let starts = argument(3, 300)?;
    let noop = env::current_exe()?.with_file_name("noop");
    let spec = Arc::new(ProcessSpec::new("noop", vec![noop.into()]));
    let routes: Arc<dyn Routes> = Arc::new(NoRoutes);

    let mut drains = Vec::new();
    let began = Instant::now();
    for _ in 0..processes {
        let process = FunctionProcess::start(Arc::clone(&spec), Arc::clone(&routes)).await?;
        drains.push(tokio::spawn(drain(process, invocations / processes)));
    }
    for drain in drains {
        drain.await??;
    }
    let rate = invocations as f64 / began.elapsed().as_secs_f64();
    println!("{rate:.0} invocations/s with {processes} processes");

    let process = FunctionProcess::start(Arc::clone(&spec), Arc::clone(&routes)).await?;
    let took = drain(process, invocations / processes).await?;
    let each = took.as_secs_f64() * 1e6 / (invocations / processes) as f64;
    println!("{each:.0} us an invocation, one at a time on one process");

    let mut firsts = Vec::new();
    let (mut invoking, mut killing) = (Duration::ZERO, Duration::ZERO);
    let began = Instant::now();
    for _ in 0..starts {
        let process = FunctionProcess::start(Arc::clone(&spec), Arc::clone(&routes)).await?;
        firsts.push(process.init_took().as_secs_f64() * 1e3);
        let deadline = SystemTime::now() + Duration::from_secs(60);
        let event = Bytes::from_static(EVENT.as_bytes());
        let invoked = Instant::now();
        process.invoke(Invocation::new("one", deadline, event, ARN)).await?;
        invoking += invoked.elapsed();
        let killed = Instant::now();
        process.kill().await;
        killing += killed.elapsed();
    }
    let mean_us = |sum: Duration| sum.as_micros() / starts.max(1) as u128;
    println!("first invocation {} us, kill and reap {} us", mean_us(invoking), mean_us(killing));
    let cycles = starts as f64 / began.elapsed().as_secs_f64();
    firsts.sort_by(f64::total_cmp);
    println!(
        "start to first next: p50 {:.2} ms, p99 {:.2} ms; {cycles:.0} processes/s of one invocation each",
        firsts[starts / 2],
        firsts[starts * 99 / 100],
    );
    Ok(())
}
