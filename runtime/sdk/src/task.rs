//! A kind of task: what it takes, what it gives, and where it goes.

use serde::{Serialize, de::DeserializeOwned};

/// A kind of task. The type holds the arguments; producer and function share it.
///
/// ```
/// use rhubarb::Task;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct SendReport { month: String }
///
/// impl Task for SendReport {
///     const NAME: &'static str = "send_report";
///     type Output = ();
/// }
/// ```
pub trait Task: Serialize + DeserializeOwned + Send + 'static {
    /// The name by which producers, queues and functions know it: letters, digits and `-_.:/`.
    const NAME: &'static str;
    /// Its queue, where neither the call nor the configuration names one. Empty: the configuration's
    /// `default`.
    const QUEUE: &'static str = "";
    /// What a succeeded task gives.
    type Output: Serialize + DeserializeOwned + Send + 'static;
}
