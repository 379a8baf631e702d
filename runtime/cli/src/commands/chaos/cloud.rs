//! An emulator of AWS on this machine, and the proxy that stands before it.

#[cfg(feature = "aws")]
pub(super) use proxied::Cloud;
#[cfg(not(feature = "aws"))]
pub(super) use unbuilt::Cloud;

#[cfg(feature = "aws")]
mod proxied {
    use std::{sync::Arc, time::Duration};

    use fastrand::Rng;
    use rhubarb_aws::{AwsBackend, AwsOptions, Connection};
    use rhubarb_core::{
        backend::Backend,
        config::{Config, Vars as _},
    };
    use rhubarb_faultproxy::{FaultProxy, Rule, Wrong};
    use tokio::{sync::watch, time::sleep};

    use crate::{
        commands::chaos::faults::{Disturbed, Fault, between},
        exit::{CliError, Result},
        session::Session,
    };

    const REGION: &str = "eu-central-1";
    /// The emulator is in reach so long, and out of reach so long.
    const UP: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(20)];
    const DOWN: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];

    /// An emulator behind a proxy.
    pub(in super::super) struct Cloud {
        proxy: FaultProxy,
    }

    impl Cloud {
        /// Makes the application on the emulator. Returns it past the proxy and through it.
        pub(in super::super) async fn open(
            session: &Session,
            config: &Config,
            seed: u64,
        ) -> Result<(Arc<dyn Backend>, Arc<dyn Backend>, Self)> {
            let named = session.global.endpoint_url.clone().or_else(|| session.vars.get("AWS_ENDPOINT_URL"));
            let endpoint = named.ok_or_else(|| {
                CliError::Usage("chaos needs an emulator of AWS on this machine: name it with --endpoint-url".into())
            })?;
            let proxy = FaultProxy::before(&endpoint).await.map_err(|error| {
                CliError::Usage(format!(
                    "chaos is for an emulator on this machine, not for AWS: --endpoint-url: {error}"
                ))
            })?;
            let open = |endpoint: &str, create| {
                let options = AwsOptions { create, ..AwsOptions::default() };
                AwsBackend::over(Connection::to_emulator(endpoint, REGION), config, options)
            };
            let eyes: Arc<dyn Backend> = Arc::new(open(&endpoint, true).await?);
            let hands: Arc<dyn Backend> = Arc::new(open(proxy.endpoint(), false).await?);
            for rule in rules(seed) {
                proxy.add(rule);
            }
            Ok((eyes, hands, Self { proxy }))
        }

        /// What leads an agent to the emulator, through the proxy, and to nothing else.
        pub(in super::super) fn variables(&self) -> Vec<(&'static str, String)> {
            vec![
                ("AWS_ENDPOINT_URL", self.proxy.endpoint().to_owned()),
                ("AWS_REGION", REGION.to_owned()),
                ("AWS_ACCESS_KEY_ID", "test".to_owned()),
                ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
                ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ]
        }

        /// Cuts the emulator off now and then, until all is calm.
        pub(in super::super) async fn misbehave(
            &self,
            seed: u64,
            disturbed: &Disturbed,
            mut calm: watch::Receiver<bool>,
        ) -> Result<()> {
            let mut random = Rng::with_seed(seed.rotate_left(32));
            loop {
                let (up, down) = (between(&mut random, UP), between(&mut random, DOWN));
                tokio::select! {
                    _ = calm.wait_for(|calm| *calm) => {
                        self.proxy.clear();
                        return Ok(());
                    }
                    () = sleep(up) => {}
                }
                self.proxy.go_down();
                sleep(down).await;
                self.proxy.come_back();
                disturbed.note(Fault::Outage);
            }
        }

        /// Requests that something was done to.
        pub(in super::super) fn wronged(&self) -> u64 {
            self.proxy.wronged()
        }
    }

    /// What becomes of requests: about one of twelve.
    fn rules(seed: u64) -> Vec<Rule> {
        let share = |percent, salt: u64, wrong| Rule::share(percent, seed.wrapping_add(salt), "", wrong);
        vec![
            share(2, 100, Wrong::DropRequest),
            share(2, 101, Wrong::DropAnswer),
            share(1, 102, Wrong::Twice),
            share(1, 103, Wrong::Delay(Duration::from_millis(700))),
            share(1, 104, Wrong::UNAVAILABLE),
            Rule::share(3, seed.wrapping_add(105), "DynamoDB", Wrong::THROUGHPUT),
        ]
    }
}

#[cfg(not(feature = "aws"))]
mod unbuilt {
    use std::sync::Arc;

    use rhubarb_core::{backend::Backend, config::Config};
    use tokio::sync::watch;

    use crate::{
        commands::chaos::faults::Disturbed,
        exit::{CliError, Result},
        session::Session,
    };

    /// There is none in this build.
    pub(in super::super) enum Cloud {}

    impl Cloud {
        #[expect(clippy::unused_async, reason = "with the feature `aws` it waits")]
        pub(in super::super) async fn open(
            _: &Session,
            _: &Config,
            _: u64,
        ) -> Result<(Arc<dyn Backend>, Arc<dyn Backend>, Self)> {
            Err(CliError::Configuration("this rhubarb was built without AWS: build it with the feature `aws`".into()))
        }

        pub(in super::super) fn variables(&self) -> Vec<(&'static str, String)> {
            match *self {}
        }

        #[expect(clippy::unused_async, reason = "with the feature `aws` it waits")]
        pub(in super::super) async fn misbehave(&self, _: u64, _: &Disturbed, _: watch::Receiver<bool>) -> Result<()> {
            match *self {}
        }

        pub(in super::super) fn wronged(&self) -> u64 {
            match *self {}
        }
    }
}
