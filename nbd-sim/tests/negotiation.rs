//! Negotiations of any course: both sides, a model and the oracle agree on what was
//! negotiated, or an error says who erred.

use nbd_proto::{
    ClientConfig, Discard, ExportEntry, ExportInfo, HeaderStyle, Machine, Negotiated, Negotiation,
    NegotiationEvent, PeerIncompatible, Phase, Question, RefusalCode, ServerConfig,
    ServerNegotiation, ServerPhase, TlsPolicy, TransmissionFlags,
};
use nbd_sim::hostile::bytes::{claim, greeting, opt, rep};
use nbd_sim::oracle::{Oracle, Tls};
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

/// What the client does next, and how the server's application answers if it is asked.
#[derive(Clone, Debug)]
struct Turn {
    ask: Ask,
    answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    List,
    Info,
    Go,
    StartTls,
    Structured,
    Extended,
    ListContexts,
    SetContexts(u8),
    Export(u8),
    Abort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Grant { size: u64, flags: u16 },
    Refuse(RefusalCode),
}

/// What the server offers.
#[derive(Clone, Copy, Debug)]
struct Offer {
    structured: bool,
    extended: bool,
    tls: TlsPolicy,
}

/// What must have been negotiated, as the protocol text has it.
#[derive(Clone, Debug)]
struct Model {
    offer: Offer,
    headers: HeaderStyle,
    tls: bool,
    /// Names of the contexts in use, and the export they were selected for.
    contexts: Vec<String>,
    chosen: u8,
    over: bool,
}

const NAMES: [&str; 3] = ["base:allocation", "sim:stripes", "sim:dirty"];
const EXPORTS: [&str; 2] = ["", "disk"];

fn queries(bits: u8) -> Vec<&'static str> {
    let wanted = NAMES.iter().enumerate().filter(|(n, _)| bits & 1 << n != 0);
    wanted.map(|(_, name)| *name).collect()
}

impl Model {
    fn new(offer: Offer) -> Self {
        let (headers, contexts) = (HeaderStyle::Simple, Vec::new());
        Self { offer, headers, tls: false, contexts, chosen: 0, over: false }
    }

    fn turn(&mut self, turn: &Turn) {
        if self.over {
            *self = Self::new(self.offer);
        }
        let Offer { structured, extended, tls } = self.offer;
        // proto.md, "FORCEDTLS mode": nothing else is granted in clear.
        let locked = tls == TlsPolicy::Require && !self.tls;
        let granted = matches!(turn.answer, Answer::Grant { .. });
        match turn.ask {
            Ask::Abort => self.over = true,
            Ask::StartTls if tls != TlsPolicy::Disable && !self.tls => {
                // proto.md, "NBD_OPT_STARTTLS": all that was agreed on is forgotten.
                *self = Self { tls: true, chosen: self.chosen, ..Self::new(self.offer) };
            }
            Ask::Export(n) if n != self.chosen => {
                self.chosen = n;
                self.contexts.clear();
            }
            _ if locked => {}
            Ask::Go => self.over = granted,
            Ask::Structured if structured => {
                self.headers = self.headers.max(HeaderStyle::Structured);
            }
            Ask::Extended if extended && structured => self.headers = HeaderStyle::Extended,
            Ask::SetContexts(bits) if self.headers != HeaderStyle::Simple => {
                let names = queries(bits).into_iter().map(str::to_owned);
                self.contexts = if granted { names.collect() } else { Vec::new() };
            }
            Ask::List
            | Ask::Info
            | Ask::StartTls
            | Ask::Structured
            | Ask::Extended
            | Ask::ListContexts
            | Ask::SetContexts(_)
            | Ask::Export(_) => {}
        }
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Turn;

    fn init_state() -> BoxedStrategy<Self> {
        let policies = [TlsPolicy::Disable, TlsPolicy::Allow, TlsPolicy::Require];
        (any::<bool>(), any::<bool>(), prop::sample::select(policies.to_vec()))
            .prop_map(|(structured, extended, tls)| Self::new(Offer { structured, extended, tls }))
            .boxed()
    }

    fn transitions(_state: &Self) -> BoxedStrategy<Turn> {
        let ask = prop_oneof![
            1 => Just(Ask::List),
            1 => Just(Ask::Info),
            2 => Just(Ask::Go),
            2 => Just(Ask::StartTls),
            2 => Just(Ask::Structured),
            2 => Just(Ask::Extended),
            1 => Just(Ask::ListContexts),
            4 => (0..8u8).prop_map(Ask::SetContexts),
            1 => (0..2u8).prop_map(Ask::Export),
            1 => Just(Ask::Abort),
        ];
        let codes = [RefusalCode::Policy, RefusalCode::UnknownExport, RefusalCode::Shutdown];
        let answer = prop_oneof![
            3 => (any::<u64>(), any::<u16>())
                .prop_map(|(size, flags)| Answer::Grant { size: size >> 1, flags: flags | 1 }),
            1 => prop::sample::select(codes.to_vec()).prop_map(Answer::Refuse),
        ];
        (ask, answer).prop_map(|(ask, answer)| Turn { ask, answer }).boxed()
    }

    fn apply(mut state: Self, turn: &Turn) -> Self {
        state.turn(turn);
        state
    }
}

/// Our two machines, and the oracle between them.
struct Talk {
    client: Negotiation,
    server: ServerNegotiation,
    oracle: Oracle,
}

impl Talk {
    fn new(offer: Offer) -> Self {
        let client = ClientConfig::new()
            .structured_replies(false)
            .extended_headers(false)
            .request_meta_contexts(false)
            .option_mode(true);
        let server = ServerConfig::new()
            .structured_replies(offer.structured)
            .extended_headers(offer.extended)
            .tls(offer.tls);
        let mut talk = Self {
            client: Negotiation::new(client).expect("sound names"),
            server: ServerNegotiation::new(server),
            oracle: Oracle::new(),
        };
        talk.carry(Answer::Refuse(RefusalCode::Policy));
        talk
    }

    /// Carries bytes to and fro, and answers for the server's application, until
    /// nobody has anything to say.
    fn carry(&mut self, answer: Answer) {
        loop {
            let (mut asked, mut said) = (Vec::new(), Vec::new());
            self.client.drain(&mut asked, &Discard).expect("no payload");
            self.oracle.client_bytes(&asked).expect("our client is sound");
            self.server.feed(&asked, &mut Discard).expect("our client is sound");
            self.answer(answer);
            self.server.drain(&mut said, &Discard).expect("no payload");
            self.oracle.server_bytes(&said).expect("our server is sound");
            self.client.feed(&said, &mut Discard).expect("our server is sound");
            if self.client.phase() == Phase::StartTls {
                self.server.tls_ready().expect("it waits for that");
                self.client.tls_ready().expect("it waits for that");
            }
            if asked.is_empty() && said.is_empty() {
                return;
            }
        }
    }

    fn answer(&mut self, answer: Answer) {
        let Some(question) = self.server.question().cloned() else {
            return;
        };
        let Answer::Grant { size, flags } = answer else {
            let Answer::Refuse(code) = answer else { unreachable!() };
            return self.server.refuse(code, "not now").expect("it was asked");
        };
        let (server, mut done) = (&mut self.server, Ok(()));
        match question {
            Question::List => {
                let (name, description) = ("disk".to_owned(), "a disk".to_owned());
                server.send_export(&ExportEntry { name, description }).expect("it was asked");
            }
            Question::Info(_) | Question::Go(_) | Question::ExportName(_) => {
                let flags = TransmissionFlags::from_bits_truncate(flags);
                done = server.describe(ExportInfo::new(size, flags));
            }
            Question::ListMetaContext(request) | Question::SetMetaContext(request) => {
                for query in &request.queries {
                    server.send_context(query).expect("it was asked");
                }
            }
        }
        done.expect("it was asked");
        if self.server.question().is_some() {
            self.server.acknowledge().expect("it was asked");
        }
    }

    fn ask(&mut self, ask: Ask) -> Result<(), nbd_proto::Error> {
        match ask {
            Ask::List => self.client.list(),
            Ask::Info => self.client.info(),
            Ask::Go => self.client.go(),
            Ask::StartTls => self.client.start_tls(),
            Ask::Structured => self.client.structured_replies(),
            Ask::Extended => self.client.extended_headers(),
            Ask::ListContexts => self.client.list_meta_contexts(&[]),
            Ask::SetContexts(bits) => self.client.set_meta_contexts(&queries(bits)),
            Ask::Export(n) => self.client.set_export_name(EXPORTS[usize::from(n)]),
            Ask::Abort => self.client.abort(),
        }
    }

    fn facts(&self) -> [&Negotiated; 2] {
        [self.client.negotiated(), self.server.negotiated()]
    }
}

impl StateMachineTest for Talk {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(model: &Model) -> Self {
        Self::new(model.offer)
    }

    fn apply(mut talk: Self, model: &Model, turn: Turn) -> Self {
        if matches!(talk.client.phase(), Phase::Established | Phase::Closed) {
            talk = Self::new(model.offer);
        }
        while talk.client.poll_event().is_some() {}
        let before = talk.client.negotiated().headers;
        if let Err(error) = talk.ask(turn.ask) {
            // There are no contexts without structured replies.
            assert_eq!(error, PeerIncompatible::NoStructuredReplies.into(), "{turn:?}");
            let contexts = matches!(turn.ask, Ask::ListContexts | Ask::SetContexts(_));
            assert!(contexts && before == HeaderStyle::Simple, "{turn:?}: {error:?}");
        }
        talk.carry(turn.answer);
        while let Some(event) = talk.client.poll_event() {
            if let NegotiationEvent::Finished { result: Err(refusal), .. } = event
                && let Answer::Refuse(code) = turn.answer
            {
                let own = matches!(turn.ask, Ask::StartTls | Ask::Structured | Ask::Extended);
                let locked = refusal.code == RefusalCode::TlsRequired;
                assert!(own || locked || refusal.code == code, "{turn:?}: {refusal:?}");
            }
        }
        talk
    }

    fn check_invariants(talk: &Self, model: &Model) {
        let over = matches!(talk.client.phase(), Phase::Established | Phase::Closed);
        assert_eq!(over, model.over);
        assert_eq!(talk.client.error(), None);
        assert_eq!(talk.server.error(), None);
        let summary = talk.oracle.summary();
        for facts in talk.facts() {
            assert_eq!(facts.headers, model.headers);
            assert_eq!(facts.tls, model.tls);
            assert_eq!(facts.tls, summary.tls == Tls::Started);
            assert_eq!(facts.headers == HeaderStyle::Extended, summary.extended);
        }
        // A server learns only with `NBD_OPT_GO` that they were for another export.
        let contexts = &talk.client.negotiated().contexts;
        let names: Vec<_> = contexts.iter().map(|context| &context.name[..]).collect();
        assert_eq!(names, model.contexts);
        if talk.client.phase() == Phase::Established {
            assert_eq!(talk.server.phase(), ServerPhase::Established);
            let [client, server] = talk.facts();
            // A client that turns away from an export forgets its contexts, also when it
            // comes back; the server has heard of neither. It makes no difference, since
            // nobody asks for the status of blocks then.
            let forgotten = client.contexts.is_empty();
            let mut expected = server.clone();
            if forgotten {
                expected.contexts.clear();
            }
            assert_eq!(client, &expected);
            let export = client.export.as_ref().expect("an export");
            assert_eq!(Some(export.size), summary.size);
            let ours = client.contexts.iter().map(|context| (context.id.0, &context.name[..]));
            let theirs = summary.contexts.iter().map(|context| (context.id, &context.name[..]));
            assert!(forgotten || ours.eq(theirs), "{client:?}, {summary:?}");
        }
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

prop_state_machine! {
    #![proptest_config(config(20000))]

    #[test]
    fn both_sides_agree_whatever_is_asked_and_answered(sequential 1..30 => Talk);
}

/// A reply of a server that follows no rules: option, kind, length that is claimed
/// beside the true one, data.
fn any_reply() -> impl Strategy<Value = Vec<u8>> {
    let options = [
        opt::LIST,
        opt::STARTTLS,
        6,
        opt::GO,
        opt::STRUCTURED_REPLY,
        opt::LIST_META_CONTEXT,
        opt::SET_META_CONTEXT,
        opt::EXTENDED_HEADERS,
        77,
    ];
    let kinds = [rep::ACK, rep::SERVER, rep::INFO, rep::META_CONTEXT, rep::ERR_UNSUP, 77];
    let data = prop_oneof![
        3 => Just(Vec::new()),
        1 => Just([&[0; 10][..], &[1, 1]].concat()),
        1 => Just(b"\0\0\0\x01base:allocation".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    let lie = prop_oneof![9 => Just(0), 1 => any::<u32>()];
    let option = prop::sample::select(options.to_vec());
    (option, prop::sample::select(kinds.to_vec()), lie, data)
        .prop_map(|(option, kind, lie, data)| claim(option, kind, data.len() as u32 ^ lie, &data))
}

proptest! {
    #![proptest_config(config(3000))]

    /// Nothing is believed that was not granted, and the first error is the last word.
    #[test]
    fn a_server_without_rules_ends_in_an_error_or_is_believed_no_more_than_it_said(
        turns in prop::collection::vec((Model::transitions(&nothing()), any_reply()), 1..20)
    ) {
        let offer = nothing().offer;
        let config = ClientConfig::new().structured_replies(false).option_mode(true);
        let mut client = Negotiation::new(config).expect("sound names");
        client.feed(&greeting(3), &mut Discard).expect("a greeting");
        let mut talk = Talk { client, ..Talk::new(offer) };
        let mut granted = Vec::new();
        let mut error = None;
        for (turn, reply) in turns {
            let _ = talk.ask(turn.ask);
            talk.client.drain(&mut Vec::new(), &Discard).expect("no payload");
            match talk.client.feed(&reply, &mut Discard) {
                Ok(_) => granted.push(reply),
                Err(why) => error = error.or(Some(why)),
            }
            if talk.client.phase() == Phase::StartTls {
                talk.client.tls_ready().expect("it waits for that");
            }
            prop_assert_eq!(talk.client.error(), error.as_ref());
            let acknowledged = |option: u32| {
                let head = claim(option, rep::ACK, 0, &[]);
                granted.iter().any(|reply| reply.starts_with(&head))
            };
            let facts = talk.client.negotiated();
            let extended = facts.headers == HeaderStyle::Extended;
            prop_assert!(!extended || acknowledged(opt::EXTENDED_HEADERS));
            prop_assert!(facts.headers != HeaderStyle::Structured || acknowledged(opt::STRUCTURED_REPLY));
            prop_assert!(!facts.tls || acknowledged(opt::STARTTLS));
            prop_assert!(facts.contexts.is_empty() || acknowledged(opt::SET_META_CONTEXT));
            prop_assert!(talk.client.phase() != Phase::Established || acknowledged(opt::GO));
        }
    }
}

fn nothing() -> Model {
    Model::new(Offer { structured: true, extended: true, tls: TlsPolicy::Disable })
}
