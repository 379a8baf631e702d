//! The maintenance function, as a host starts it.

use maintenance::{cleanup_checkpoints, scan_failed_jobs, update_job_metrics};
use rhubarb::Function;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rhubarb::Error> {
    Function::new().on(cleanup_checkpoints).on(update_job_metrics).on(scan_failed_jobs).run().await
}
