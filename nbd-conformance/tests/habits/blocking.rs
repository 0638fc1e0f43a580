//! With threads.

/// Compiling it is the test.
pub(super) fn all() {
    let _ = buffered_lines::habit;
    let _ = connect_to_a_string::habit;
    let _ = errors_by_question::habit;
    let _ = file_ext::habit;
    let _ = go_with_question_mark::habit;
    let _ = host_and_port::habit;
    let _ = io_copy::habit;
    let _ = io_error::habit;
    let _ = parse_options::habit;
    let _ = pipeline_of_slices::habit;
    let _ = question_mark_into_boxed_error::habit;
    let _ = shared_among_threads::habit;
    let _ = whole_range::habit;
}

/// From std: what reads is buffered.
mod buffered_lines {
    use nbd_client_blocking::{Client, ExportFile};
    use std::io::{BufRead, BufReader};

    pub(super) fn habit() -> Result<(), Box<dyn std::error::Error>> {
        let file = ExportFile::new(Client::connect("nbd://localhost/disk")?);
        for line in BufReader::new(file).lines() {
            println!("{}", line?);
        }
        Ok(())
    }
}

/// From std: whatever is nearly a string is taken where a string is.
mod connect_to_a_string {
    use nbd_client_blocking::{Client, Error};

    pub(super) fn habit() -> Result<(), Error> {
        let uri = std::env::args().nth(1).unwrap_or_default();
        let first = Client::connect(&uri)?;
        let second = Client::connect(uri)?;
        drop((first, second));
        Ok(())
    }
}

/// From reqwest: errors are asked what they are.
mod errors_by_question {
    use nbd_client_blocking::Client;

    pub(super) fn habit() {
        match Client::connect("nbd://localhost/disk") {
            Ok(_) => {}
            Err(error) if error.is_timeout() => eprintln!("too slow: {error}"),
            Err(error) if error.is_connect() => eprintln!("nobody there: {error}"),
            Err(error) => eprintln!("{error}"),
        }
    }
}

/// From std's FileExt: the buffer, then the offset, and `&self`.
mod file_ext {
    use nbd_client_blocking::{Error, Pool};

    pub(super) fn habit(pool: &Pool, from: u64, to: u64) -> Result<(), Error> {
        let mut block = vec![0; 4096];
        pool.read_exact_at(&mut block, from)?;
        pool.write_all_at(&block, to)
    }
}

/// Option mode, and `?` on the last step too.
mod go_with_question_mark {
    use nbd_client_blocking::{Error, Options};

    pub(super) fn habit() -> Result<(), Error> {
        let mut options = Options::connect("nbd://localhost")?;
        for export in options.list()? {
            println!("{}", export.name);
        }
        let client = options.go()?;
        println!("{}", client.size());
        Ok(())
    }
}

/// From sqlx: an address without a URI.
mod host_and_port {
    use nbd_client_blocking::{Client, ConnectOptions, Error};

    pub(super) fn habit() -> Result<(), Error> {
        Client::connect(ConnectOptions::new().tcp("localhost", 10809).export("disk"))?;
        Client::connect(ConnectOptions::new().unix("/run/nbd.sock"))?;
        Ok(())
    }
}

/// From std::io: an export is a file.
mod io_copy {
    use nbd_client_blocking::{Client, ExportFile};
    use std::io::{self, Read, Seek, SeekFrom};

    pub(super) fn habit() -> Result<(), Box<dyn std::error::Error>> {
        let mut file = ExportFile::new(Client::connect("nbd://localhost/disk")?);
        let mut head = [0; 16];
        file.read_exact(&mut head)?;
        file.seek(SeekFrom::Start(0))?;
        io::copy(&mut file, &mut io::stdout())?;
        Ok(())
    }
}

/// From any program whose own functions return io::Result.
mod io_error {
    use nbd_client_blocking::Client;
    use std::io;

    pub(super) fn habit() -> io::Result<u8> {
        let mut client = Client::connect("nbd://localhost/disk")?;
        let mut byte = [0];
        client.read_exact_at(&mut byte, 0)?;
        Ok(byte[0])
    }
}

/// From sqlx: options are parsed from a URI and then changed.
mod parse_options {
    use nbd_client_blocking::{Client, ConnectOptions, Error};
    use std::time::Duration;

    pub(super) fn habit() -> Result<(), Error> {
        let options = "nbd://localhost"
            .parse::<ConnectOptions>()?
            .export("disk")
            .connect_timeout(Duration::from_secs(5));
        Client::connect(options)?;
        Ok(())
    }
}

/// From io_uring: write a borrowed slice, many at a time.
mod pipeline_of_slices {
    use nbd_client_blocking::{Borrowed, Client, Error};

    pub(super) fn habit() -> Result<(), Error> {
        let data = vec![7; 1 << 20];
        let mut client = Client::connect("nbd://localhost/disk")?;
        let mut pipeline = client.pipeline();
        for (index, block) in data.chunks(4096).enumerate() {
            pipeline.write(Borrowed::from(block), index as u64 * 4096)?;
        }
        while let Some(done) = pipeline.wait() {
            done.result?;
        }
        Ok(())
    }
}

/// From any example: `?` in a `main` that returns a boxed error.
mod question_mark_into_boxed_error {
    use nbd_client_blocking::Client;

    pub(super) fn habit() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut client = Client::connect("nbd://localhost/disk")?;
        let mut sector = [0; 512];
        client.read_exact_at(&mut sector, 0)?;
        client.disconnect()?;
        Ok(())
    }
}

/// From std: what is Sync can be looked at from several threads.
mod shared_among_threads {
    use nbd_client_blocking::{Client, Error};

    pub(super) fn habit() -> Result<(), Error> {
        let client = Client::connect("nbd://localhost/disk")?;
        std::thread::scope(|scope| {
            scope.spawn(|| client.size());
            scope.spawn(|| client.is_read_only());
        });
        Ok(())
    }
}

/// From slices and BTreeMap: `..` is everything.
mod whole_range {
    use nbd_client_blocking::{Client, Error};

    pub(super) fn habit() -> Result<(), Error> {
        let mut client = Client::connect("nbd://localhost/disk")?;
        for extent in client.extents("base:allocation", ..)? {
            let extent = extent?;
            println!("{:?} {}", extent.range(), extent.is_hole());
        }
        Ok(())
    }
}
