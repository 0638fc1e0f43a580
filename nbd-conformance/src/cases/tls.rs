//! What goes wrong between a client and a server that disagree about TLS.

use nbd_proto::{CommandFlags, Errno, TlsPolicy};
use nbd_transport::tls::TlsConfig;

use crate::case::{CaseResult, Need, cases};
use crate::fixture::{Fixture, as_is, how};
use crate::outcome::{Who, failed, fails};
use crate::site::{Credentials, Kind, Security};

const CLEAR: Need = Need::PlainOnly("the server is one without TLS");
const OPTIONAL: Need =
    Need::Server(&[Kind::Nbdkit, Kind::Ours], "qemu-nbd cannot leave TLS to the client");

cases! {
    clear_text_where_tls_is_wanted [Need::SomeTls],
    questions_in_clear_where_tls_is_wanted [Need::SomeTls],
    strangers_are_not_let_in [Need::SomeTls],
    credentials_of_the_program [Need::SomeTls],
    the_client_may_choose [Need::SomeTls, OPTIONAL],
    tls_where_there_is_none [CLEAR],
    tls_if_it_can_be_had [CLEAR],
}

fn clear_text_where_tls_is_wanted(fixture: &mut Fixture<'_>) -> CaseResult {
    let uri = fixture.shared().uri_as("", Security::Plain, Credentials::ours());
    fails(fixture.connect_to(&uri, as_is), Who::Nobody, Errno::NotSup);
    fixture.disk()?.read(0, 512)?;
    Ok(())
}

fn questions_in_clear_where_tls_is_wanted(fixture: &mut Fixture<'_>) -> CaseResult {
    let uri = fixture.shared().uri_as("", Security::Plain, Credentials::ours());
    let mut options = fixture.negotiate(&uri, as_is)?;
    fails(options.list(), Who::Server, Errno::NotSup);
    fails(options.info(), Who::Server, Errno::NotSup);
    Ok(())
}

/// Another authority, another key: it ends, and not because the time is over.
fn strangers_are_not_let_in(fixture: &mut Fixture<'_>) -> CaseResult {
    let uri = fixture.shared().uri_as("", fixture.site.security, Credentials::strange());
    let failure = failed(fixture.connect_to(&uri, as_is));
    assert_eq!(failure.who, Who::Connection, "{failure}");
    fixture.disk()?.read(0, 512)?;
    Ok(())
}

fn connector(
    security: Security,
) -> Result<nbd_transport::tls::TlsConnector, Box<dyn std::error::Error>> {
    let credentials = Credentials::ours();
    let config = match security {
        Security::Plain | Security::Tls => TlsConfig::new().directory(credentials.dir()),
        Security::Psk => TlsConfig::new().psk_file(credentials.keys()).username(Credentials::USER),
    };
    Ok(config.connector()?)
}

fn credentials_of_the_program(fixture: &mut Fixture<'_>) -> CaseResult {
    let uri = fixture.shared().uri_as("", Security::Plain, Credentials::ours());
    let mut own = how(&uri, as_is);
    own.tls = Some((TlsPolicy::Require, connector(fixture.site.security)?));
    let mut disk = fixture.subject.connect(&own)?;
    assert!(disk.facts().tls);
    disk.write(0, &[1; 512], CommandFlags::empty())?;
    Ok(())
}

fn the_client_may_choose(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = match fixture.site.kind {
        Kind::Nbdkit => fixture.site.start_with(&["--tls=on", "memory", "1M"])?,
        Kind::Qemu | Kind::Ours => fixture.site.start_with(&["--tls=allow", "--memory=1M"])?,
    };
    let clear = server.uri_as("", Security::Plain, Credentials::ours());
    for (uri, is_tls) in [(clear, false), (server.uri(), true)] {
        let mut disk = fixture.connect_to(&uri, as_is)?;
        assert_eq!(disk.facts().tls, is_tls);
        disk.read(0, 512)?;
    }
    Ok(())
}

fn tls_where_there_is_none(fixture: &mut Fixture<'_>) -> CaseResult {
    let uri = fixture.shared().uri_as("", Security::Tls, Credentials::ours());
    let failure = failed(fixture.connect_to(&uri, as_is));
    assert_eq!((failure.who, failure.errno), (Who::Server, 1), "{failure}");
    Ok(())
}

fn tls_if_it_can_be_had(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut lenient = how(&fixture.shared().uri(), as_is);
    lenient.tls = Some((TlsPolicy::Allow, connector(Security::Tls)?));
    let mut disk = fixture.subject.connect(&lenient)?;
    assert!(!disk.facts().tls);
    disk.read(0, 512)?;
    Ok(())
}
