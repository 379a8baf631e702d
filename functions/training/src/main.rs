//! The training function, as a host starts it.

use rhubarb::Function;
use training::train_model;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rhubarb::Error> {
    Function::new().on(train_model).run().await
}
