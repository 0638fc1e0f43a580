//! What the crate of a runtime offers first, written once for all of them.

/// Makes the connector of a runtime, and the ways to connect with it, for the module of that
/// path, in the crate of that name.
#[doc(hidden)]
#[macro_export]
macro_rules! entry_points {
    ($runtime:ident, $path:literal, $crate_name:literal) => {
        /// Connects as [`ConnectOptions`](nbd_client_async::ConnectOptions) say.
        ///
        /// ```no_run
        #[doc = concat!("# async fn example() -> Result<(), ", $crate_name, "::Error> {")]
        #[doc = concat!("use ", $crate_name, "::ConnectOptions;")]
        #[doc = concat!("use ", $path, "::Connector;")]
        ///
        /// let options: ConnectOptions = "nbd://localhost/disk".parse()?;
        /// let options = options.request_timeout(std::time::Duration::from_secs(30));
        /// let client = Connector::new(options).connect().await?;
        /// # Ok(()) }
        /// ```
        pub type Connector = $crate::Connector<$runtime>;

        /// Connects to a URI, or as other [`ConnectOptions`](nbd_client_async::ConnectOptions) say.
        ///
        /// ```no_run
        #[doc = concat!("# async fn example() -> Result<(), ", $crate_name, "::Error> {")]
        #[doc = concat!("let client = ", $path, "::connect(\"nbd://localhost/disk\").await?;")]
        /// # Ok(()) }
        /// ```
        ///
        /// # Errors
        /// When the URI is malformed or forbidden, nobody answers, or the server refuses.
        pub async fn connect<O>(to: O) -> Result<$crate::Client, $crate::Error>
        where
            O: TryInto<$crate::ConnectOptions>,
            $crate::Error: From<O::Error>,
        {
            Connector::new(to.try_into()?).connect().await
        }

        /// Connects to a pool of up to `size` connections: see
        /// [`Connector::connect_pool`](nbd_client_async::Connector::connect_pool).
        ///
        /// ```no_run
        #[doc = concat!("# async fn example() -> Result<(), ", $crate_name, "::Error> {")]
        #[doc = concat!("let pool = ", $path, "::connect_pool(\"nbd://localhost/disk\", 4).await?;")]
        /// # Ok(()) }
        /// ```
        ///
        /// # Errors
        /// As [`connect`]; where others than the first fail, the pool is smaller.
        pub async fn connect_pool<O>(to: O, size: usize) -> Result<$crate::Pool, $crate::Error>
        where
            O: TryInto<$crate::ConnectOptions>,
            $crate::Error: From<O::Error>,
        {
            Connector::new(to.try_into()?).connect_pool(size).await
        }

        /// `Client::connect` and `Options::connect`, as nbd-client-blocking has them, for who
        /// has this trait in scope.
        ///
        /// ```no_run
        #[doc = concat!("# async fn example() -> Result<(), ", $crate_name, "::Error> {")]
        #[doc = concat!("use ", $crate_name, "::{Client, Options};")]
        #[doc = concat!("use ", $path, "::Connect;")]
        ///
        /// let client = Client::connect("nbd://localhost/disk").await?;
        /// for export in Options::connect("nbd://localhost").await?.list().await? {
        ///     println!("{}", export.name);
        /// }
        /// # Ok(()) }
        /// ```
        pub trait Connect: Sized {
            /// Connects to a URI, or as other [`ConnectOptions`](nbd_client_async::ConnectOptions) say.
            ///
            /// # Errors
            /// As [`connect()`].
            fn connect<O>(
                to: O,
            ) -> impl std::future::Future<Output = Result<Self, $crate::Error>> + Send
            where
                O: TryInto<$crate::ConnectOptions>,
                $crate::Error: From<O::Error>;
        }

        $crate::entry_points!(@ $crate::Client, connect);
        $crate::entry_points!(@ $crate::Options, negotiate);
    };
    (@ $connected:ty, $connect:ident) => {
        impl Connect for $connected {
            fn connect<O>(
                to: O,
            ) -> impl std::future::Future<Output = Result<Self, $crate::Error>> + Send
            where
                O: TryInto<$crate::ConnectOptions>,
                $crate::Error: From<O::Error>,
            {
                let options = to.try_into().map_err($crate::Error::from);
                async move { Connector::new(options?).$connect().await }
            }
        }
    };
}
