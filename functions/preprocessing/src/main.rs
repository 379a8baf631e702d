//! The preprocessing function, as a host starts it.

use preprocessing::preprocess_dataset;
use rhubarb::Function;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rhubarb::Error> {
    Function::new().on(preprocess_dataset).run().await
}
