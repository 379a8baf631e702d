//! The prediction function, as a host starts it.

use prediction::quantify_tissue;
use rhubarb::Function;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rhubarb::Error> {
    Function::new().on(quantify_tissue).run().await
}
