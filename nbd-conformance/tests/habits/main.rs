//! Lines as they are written by habit, by who knows std, tokio, reqwest, sqlx and others but not
//! these crates. That they compile is the test.
//!
//! | what is written | as in | |
//! |---|---|---|
//! | **`blocking`** | | |
//! | `BufReader::new(ExportFile::new(client)).lines()` | std | compiles |
//! | `Client::connect(&string)`, `Client::connect(string)` | std | compiles |
//! | `error.is_timeout()`, `error.is_connect()` | reqwest | compiles |
//! | `read_exact_at(&mut buffer, offset)` by `&self` | `FileExt` | of a pool; a client wants `&mut`, and the compiler says so |
//! | `options.go()?` | any state machine | compiles |
//! | `ConnectOptions::new().tcp(host, port)`, `.unix(path)` | sqlx | compiles |
//! | `io::copy(&mut file, …)`, `seek`, `read_exact` | std | compiles |
//! | `?` in a function that returns `io::Result` | std | compiles |
//! | `uri.parse::<ConnectOptions>()?`, then setters | sqlx | compiles |
//! | slices in a pipeline | io_uring | compiles with `Borrowed::from` around the slice |
//! | `?` into `Box<dyn Error + Send + Sync>` | any `main` | compiles |
//! | `&client` in scoped threads | std | compiles |
//! | `client.extents(context, ..)` | slices | compiles |
//! | **`tokio`** | | |
//! | `stream.buffered(16).try_collect()` | object_store | compiles |
//! | `nbd_client_tokio::connect(uri)` | tokio-postgres | compiles |
//! | `tokio::io::copy(&mut file, …)`, `rewind` | tokio | compiles |
//! | `Client::connect(uri)` | sqlx | compiles with the trait `Connect`, which the compiler names |
//! | `connect_over(tokio::net::TcpStream)` | hyper | compiles |
//! | `connect_pool(uri, 4)` | deadpool | compiles |
//! | `tokio::spawn` with a clone of the client | tokio | compiles |
//! | `extents.try_next()` | futures | compiles |
//! | `timeout(time, client.flush()).await??` | tokio | compiles |
//! | the data back out of a write that failed | tokio's channels | compiles |
//! | `write_all_at` of `&[u8]`, `&Vec<u8>`, `&str`, `Vec<u8>`, `Bytes` | reqwest | compiles |
//! | **`others`** | | |
//! | `Connection::connect(uri)`, then `register` | mio | compiles |
//! | `CommandFlags::FUA \| CommandFlags::NO_HOLE` | bitflags | compiles |
//! | `Server::new(Arc::clone(&disk))` | axum | compiles |
//! | a server in one line | tiny_http | compiles |
//! | `impl Export` with two methods | tower | compiles |
//! | `smol::connect(uri)` | smol | compiles |

mod blocking;
mod others;
mod tokio;

#[test]
fn what_is_written_by_habit_compiles() {
    blocking::all();
    tokio::all();
    others::all();
}
