//! The evaluation function, as a host starts it.

use evaluation::run_evaluation;
use rhubarb::Function;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rhubarb::Error> {
    Function::new().on(run_evaluation).run().await
}
