//! The credentials of AWS's standard chain for the object store, kept until shortly before they expire.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials as _, SharedCredentialsProvider, error::CredentialsError},
};
use object_store::{Error, HeaderValue, aws::AwsCredential, client::CredentialProvider};
use tokio::sync::Mutex;

/// Credentials are renewed when they have no longer than this to live: longer than one request with its retries.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// Credentials without an end are asked for again after this: somebody may have signed in anew.
const LIFE_MAX: Duration = Duration::from_secs(15 * 60);

/// The standard chain as the object store asks for it.
#[derive(Debug)]
pub(super) struct Chain {
    provider: Option<SharedCredentialsProvider>,
    /// What was given last, and until when it is used. Whoever waits for the lock waits for the same answer.
    kept: Mutex<Option<(Arc<AwsCredential>, SystemTime)>>,
}

impl Chain {
    pub(super) fn new(provider: Option<SharedCredentialsProvider>) -> Self {
        Self { provider, kept: Mutex::new(None) }
    }

    async fn load(&self) -> Result<Credentials, CredentialsError> {
        match &self.provider {
            Some(provider) => provider.provide_credentials().await,
            None => Err(CredentialsError::not_loaded("no source of credentials is configured")),
        }
    }
}

#[async_trait]
impl CredentialProvider for Chain {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut kept = self.kept.lock().await;
        let now = SystemTime::now();
        if let Some((credential, _)) = kept.as_ref().filter(|(_, until)| now < *until) {
            return Ok(Arc::clone(credential));
        }
        let loaded = self.load().await.map_err(generic)?;
        let credential = Arc::new(readable(&loaded)?);
        let end = loaded.expiry().and_then(|expiry| expiry.checked_sub(MARGIN));
        let until = end.map_or(now + LIFE_MAX, |end| end.min(now + LIFE_MAX));
        *kept = Some((Arc::clone(&credential), until));
        Ok(credential)
    }
}

/// The object store puts the token into a header and takes for granted that it fits.
fn readable(loaded: &Credentials) -> object_store::Result<AwsCredential> {
    let token = loaded.session_token().map(str::to_owned);
    if token.as_deref().is_some_and(|token| HeaderValue::from_str(token).is_err()) {
        let problem = "AWS_SESSION_TOKEN, or the token of the profile, holds a character that no header can carry";
        return Err(generic(CredentialsError::invalid_configuration(problem)));
    }
    let (key_id, secret_key) = (loaded.access_key_id().to_owned(), loaded.secret_access_key().to_owned());
    Ok(AwsCredential { key_id, secret_key, token })
}

fn generic(source: CredentialsError) -> Error {
    Error::Generic { store: "S3", source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use aws_credential_types::provider::{ProvideCredentials, future};

    use super::*;

    #[derive(Debug, Clone)]
    struct Counted {
        asked: Arc<AtomicU32>,
        lives: Option<Duration>,
        token: Option<String>,
    }

    impl ProvideCredentials for Counted {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let expiry = self.lives.map(|lives| SystemTime::now() + lives);
            future::ProvideCredentials::ready(Ok(Credentials::new("id", "secret", self.token.clone(), expiry, "test")))
        }
    }

    async fn asked_for_three(lives: Option<Duration>) -> u32 {
        let asked = Arc::new(AtomicU32::new(0));
        let counted = Counted { asked: Arc::clone(&asked), lives, token: None };
        let chain = Chain::new(Some(SharedCredentialsProvider::new(counted)));
        for _ in 0..3 {
            chain.get_credential().await.unwrap();
        }
        asked.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn credentials_are_kept_until_shortly_before_they_expire() {
        assert_eq!(asked_for_three(None).await, 1);
        assert_eq!(asked_for_three(Some(MARGIN + Duration::from_secs(60))).await, 1);
        assert_eq!(asked_for_three(Some(MARGIN - Duration::from_secs(1))).await, 3);
    }

    #[tokio::test]
    async fn a_token_that_no_header_can_carry_is_an_error() {
        let counted = Counted { asked: Arc::default(), lives: None, token: Some("a\nb".into()) };
        let error = Chain::new(Some(SharedCredentialsProvider::new(counted))).get_credential().await.unwrap_err();
        let told = super::super::answer::told("read a blob".into(), &error);
        assert!(told.to_string().contains("AWS_SESSION_TOKEN"), "{told}");
    }

    #[tokio::test]
    async fn where_there_are_none_the_fix_is_named() {
        let error = Chain::new(None).get_credential().await.unwrap_err();
        let told = super::super::answer::told("read a blob".into(), &error);
        assert!(told.to_string().contains("AWS_PROFILE"), "{told}");
    }
}
