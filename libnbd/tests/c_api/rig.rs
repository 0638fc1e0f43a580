//! The library, built and installed for these tests, and programs that use it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use nbd_sim::peer::{Finished, Scratch, Server, run};

/// The library and its header, as `cargo xtask capi` installs them.
pub(crate) struct Library {
    level: String,
    prefix: PathBuf,
}

const NEWEST_LEVEL: &str = "1.24.0";
const OLDER_LEVEL: &str = "1.14.2";

static NEWEST: LazyLock<Library> = LazyLock::new(|| Library::install(NEWEST_LEVEL));
static OLDER: LazyLock<Library> = LazyLock::new(|| Library::install(OLDER_LEVEL));
static SYSTEM: LazyLock<Library> = LazyLock::new(|| Library::install(&SYSTEM_LEVEL));

/// The release that the system has.
static SYSTEM_LEVEL: LazyLock<String> = LazyLock::new(|| {
    succeed(Command::new("pkg-config").args(["--modversion", "libnbd"])).trim().to_owned()
});

impl Library {
    /// Of the newest release.
    pub(crate) fn newest() -> &'static Self {
        &NEWEST
    }

    /// Of an older release, that of Debian 12.
    pub(crate) fn older() -> &'static Self {
        &OLDER
    }

    /// Of the release that the system has, for its bindings and programs.
    pub(crate) fn system() -> &'static Self {
        match SYSTEM_LEVEL.as_str() {
            NEWEST_LEVEL => &NEWEST,
            OLDER_LEVEL => &OLDER,
            _ => &SYSTEM,
        }
    }

    /// The release that it is, as `1.14.2`.
    pub(crate) fn level(&self) -> &str {
        &self.level
    }

    fn install(level: &str) -> Self {
        let place = if is_sanitized() { format!("{level}-sanitized") } else { level.to_owned() };
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join(place);
        let mut xtask = xtask();
        if is_sanitized() {
            xtask.arg("--sanitize");
        }
        xtask.args(["--debug", "--level", level, "--prefix"]).arg(&prefix);
        let status = xtask.status().expect("cargo starts");
        assert!(status.success(), "the library is built");
        Self { level: level.to_owned(), prefix }
    }

    pub(crate) fn include(&self) -> PathBuf {
        self.prefix.join("include")
    }

    pub(crate) fn lib(&self) -> PathBuf {
        self.prefix.join("lib")
    }

    /// A program that uses this library and no other, and is told of which release it is.
    pub(crate) fn used_by(&self, mut command: Command) -> Command {
        command.env("LD_LIBRARY_PATH", self.lib()).env("NBD_TEST_LEVEL", &self.level);
        command
    }

    /// Compiles a program of `tests/c`, and links it with the library.
    pub(crate) fn compile(&self, name: &str, scratch: &Scratch) -> PathBuf {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c");
        let program = scratch.join(name);
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
            .arg(&program);
        if is_sanitized() {
            cc.arg("-fsanitize=address");
        }
        cc.arg("-I").arg(self.include()).arg(sources.join(format!("{name}.c")));
        cc.arg("-L").arg(self.lib()).arg("-lnbd");
        succeed(&mut cc);
        program
    }

    /// Compiles and runs a program of `tests/c` with these arguments.
    pub(crate) fn run(&self, name: &str, args: &[&str]) {
        let scratch = Scratch::new().expect("a directory is made");
        let program = self.compile(name, &scratch);
        let mut program = self.used_by(watched(&program));
        succeed(program.args(args));
    }
}

/// A program of `tests/c`, under valgrind if that is asked for: a bad access or memory that is
/// lost fails it.
fn watched(program: &Path) -> Command {
    if std::env::var_os("NBD_VALGRIND").is_none() {
        return Command::new(program);
    }
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--error-exitcode=99", "--leak-check=full"]);
    valgrind.args(["--errors-for-leak-kinds=definite,indirect", "--num-callers=30"]).arg(program);
    valgrind
}

/// Whether library and programs watch each access to memory: for `semantics` only, since the
/// programs of others do not.
fn is_sanitized() -> bool {
    std::env::var_os("NBD_SANITIZE").is_some()
}

/// `cargo xtask capi`, without arguments yet.
pub(crate) fn xtask() -> Command {
    let mut xtask = Command::new(env!("CARGO"));
    xtask.args(["run", "--quiet", "--package", "xtask", "--", "capi"]);
    xtask.current_dir(env!("CARGO_MANIFEST_DIR"));
    xtask
}

/// Runs a program, which has to succeed, and returns what it said.
pub(crate) fn succeed(command: &mut Command) -> String {
    finish(command).success().unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn finish(command: &mut Command) -> Finished {
    run(command).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn nbdkit(args: &[&str]) -> Server {
    Server::nbdkit(args).start().expect("nbdkit starts")
}
