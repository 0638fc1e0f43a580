//! Disks over an object store: against a plain vector, with storage that fails, and with power
//! cuts.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

use super::{AsyncExport, BoxFuture, ObjectExport, Objects, Zeroing};

const OBJECT: usize = 512;
/// No multiple of an object.
const SIZE: usize = 9 * OBJECT + 100;

/// A store whose puts can be made to fail, or to wait.
#[derive(Debug)]
struct Store {
    objects: Mutex<HashMap<u64, Bytes>>,
    fails: AtomicBool,
    gets: AtomicUsize,
    /// One permit for each put.
    puts: Semaphore,
    /// Puts that wait or have waited.
    begun: Semaphore,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            objects: Mutex::default(),
            fails: AtomicBool::new(false),
            gets: AtomicUsize::new(0),
            puts: Semaphore::new(Semaphore::MAX_PERMITS),
            begun: Semaphore::new(0),
        }
    }
}

impl Store {
    async fn put(&self, object: u64, bytes: Option<Bytes>) -> io::Result<()> {
        self.begun.add_permits(1);
        self.puts.acquire().await.map_err(io::Error::other)?.forget();
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::HostUnreachable.into());
        }
        let mut objects = self.objects.lock().unwrap();
        match bytes {
            Some(bytes) => objects.insert(object, bytes),
            None => objects.remove(&object),
        };
        Ok(())
    }
}

impl Objects for Arc<Store> {
    fn get(&self, object: u64, range: Range<usize>) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let bytes = self.objects.lock().unwrap().get(&object).map(|bytes| bytes.slice(range));
        Box::pin(async { Ok(bytes) })
    }

    fn put(&self, object: u64, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(Store::put(self, object, Some(bytes)))
    }

    fn delete(&self, object: u64) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(Store::put(self, object, None))
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

fn disk(store: &Arc<Store>) -> ObjectExport<Arc<Store>> {
    ObjectExport::new(Arc::clone(store), SIZE as u64).object_size(OBJECT)
}

async fn all(disk: &ObjectExport<Arc<Store>>) -> Vec<u8> {
    disk.read(0, SIZE).await.unwrap().to_vec()
}

#[derive(Clone, Debug)]
enum Step {
    Write(Range<usize>, u8),
    Zero(Range<usize>),
    Trim(Range<usize>),
    Read(Range<usize>),
    Flush,
    /// Puts fail, or no longer.
    Fail(bool),
    /// What was not flushed is lost.
    PowerCut,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || (0..SIZE, 0..3 * OBJECT).prop_map(|(at, len)| at..(at + len).min(SIZE));
    let whole = (0..9_usize, 1..4_usize);
    let whole = whole.prop_map(|(at, len)| at * OBJECT..((at + len) * OBJECT).min(SIZE));
    let step = prop_oneof![
        6 => (range(), 1..=255_u8).prop_map(|(range, byte)| Step::Write(range, byte)),
        2 => range().prop_map(Step::Zero),
        2 => whole.prop_map(Step::Zero),
        1 => range().prop_map(Step::Trim),
        3 => range().prop_map(Step::Read),
        2 => Just(Step::Flush),
        1 => any::<bool>().prop_map(Step::Fail),
        1 => Just(Step::PowerCut),
    ];
    prop::collection::vec(step, 0..60)
}

/// What may be read: each byte as it was flushed last, and every value since.
struct Model(Vec<Vec<u8>>);

impl Model {
    fn set(&mut self, range: Range<usize>, byte: u8) {
        self.0[range].iter_mut().for_each(|values| values.push(byte));
    }

    fn now(&self) -> Vec<u8> {
        self.0.iter().map(|values| *values.last().unwrap()).collect()
    }
}

proptest! {
    #[test]
    fn as_a_vector(steps in steps(), kept in 1..12_usize) {
        runtime().block_on(async {
            let store = Arc::new(Store::default());
            let open = || disk(&store).max_changed(kept * OBJECT);
            let (mut disk, mut model) = (open(), Model(vec![vec![0]; SIZE]));
            for step in steps {
                let fails = store.fails.load(Ordering::SeqCst);
                match step {
                    Step::Write(range, byte) => {
                        let new = vec![byte; range.len()];
                        match disk.write_all_at(&new, range.start as u64).await {
                            Ok(()) => model.set(range, byte),
                            // A part of it may have been written.
                            Err(error) => {
                                prop_assert!(fails, "{error}");
                                let now = all(&disk).await;
                                for (at, values) in model.0[range.clone()].iter_mut().enumerate() {
                                    let found = now[range.start + at];
                                    let before = *values.last().unwrap();
                                    prop_assert!(found == byte || found == before);
                                    values.push(found);
                                }
                            }
                        }
                    }
                    Step::Zero(range) => {
                        let (at, len) = (range.start as u64, range.len() as u64);
                        match disk.write_zeroes(at, len, Zeroing::ANY).await {
                            Ok(()) => model.set(range, 0),
                            Err(error) => {
                                prop_assert!(fails, "{error}");
                                for (at, byte) in all(&disk).await.into_iter().enumerate() {
                                    model.0[at].push(byte);
                                }
                            }
                        }
                    }
                    Step::Trim(range) => {
                        let done = disk.trim(range.start as u64, range.len() as u64).await;
                        prop_assert!(done.is_ok() || fails);
                        let now = all(&disk).await;
                        for (at, values) in model.0.iter_mut().enumerate() {
                            let byte = *values.last().unwrap();
                            let may_differ = range.contains(&at) && now[at] == 0;
                            prop_assert!(now[at] == byte || may_differ, "byte {}", at);
                            values.push(now[at]);
                        }
                    }
                    Step::Read(range) => {
                        let bytes = disk.read(range.start as u64, range.len()).await.unwrap();
                        prop_assert_eq!(&bytes[..], &model.now()[range]);
                    }
                    Step::Flush => match disk.flush().await {
                        Ok(()) => model.0.iter_mut().for_each(|it| drop(it.drain(..it.len() - 1))),
                        Err(_) => prop_assert!(fails),
                    },
                    Step::Fail(fail) => store.fails.store(fail, Ordering::SeqCst),
                    Step::PowerCut => {
                        disk = open();
                        for (at, byte) in all(&disk).await.into_iter().enumerate() {
                            prop_assert!(model.0[at].contains(&byte), "byte {} is {}", at, byte);
                            // Durable it is, whatever it is.
                            model.0[at] = vec![byte];
                        }
                    }
                }
            }
            prop_assert_eq!(all(&disk).await, model.now());
            Ok(())
        })?;
    }
}

/// What has changed is put early when there is too much of it, and a write of a whole object
/// does not read it.
#[test]
fn what_is_kept_is_bounded() {
    runtime().block_on(async {
        let store = Arc::new(Store::default());
        let disk = disk(&store).max_changed(4 * OBJECT);
        for object in 0..9 {
            disk.write_all_at(&[1; OBJECT], (object * OBJECT) as u64).await.unwrap();
            assert!(disk.changed.all().len() <= 4);
        }
        assert_eq!(store.gets.load(Ordering::SeqCst), 0);
        assert!(store.objects.lock().unwrap().len() >= 5);
        disk.flush().await.unwrap();
        assert_eq!((store.objects.lock().unwrap().len(), disk.changed.all().len()), (9, 0));
        // Nor does anything stay behind of what was only read, or could not be changed.
        disk.read(0, SIZE).await.unwrap();
        assert!(disk.write_all_at(&[1; 10], SIZE as u64 - 5).await.is_err());
        assert_eq!(disk.changed.all().len(), 0);
    });
}

/// While an object is put others change and read it, and the older state never comes to lie over
/// the newer one: not by a second flush that overtakes the first.
#[test]
fn flushes_beside_each_other_put_in_order() {
    runtime().block_on(async {
        let store = Arc::new(Store { puts: Semaphore::new(0), ..Store::default() });
        let disk = Arc::new(disk(&store));
        disk.write_all_at(&[1; 10], 0).await.unwrap();
        let flush = |disk: &Arc<ObjectExport<Arc<Store>>>| {
            let disk = Arc::clone(disk);
            tokio::spawn(async move { disk.flush().await })
        };
        let first = flush(&disk);
        store.begun.acquire().await.unwrap().forget();
        disk.write_all_at(&[2; 10], 0).await.unwrap();
        let second = flush(&disk);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(store.begun.available_permits(), 0, "two puts of one object at a time");
        assert_eq!(disk.read(0, 10).await.unwrap(), [2; 10][..]);
        store.puts.add_permits(1);
        first.await.unwrap().unwrap();
        assert_eq!(store.objects.lock().unwrap()[&0][..10], [1; 10]);
        store.puts.add_permits(1);
        second.await.unwrap().unwrap();
        assert_eq!(store.objects.lock().unwrap()[&0][..10], [2; 10]);
        assert_eq!(disk.changed.all().len(), 0);
    });
}

/// Storage that gives too little is found out.
#[test]
fn an_object_that_is_too_short() {
    struct Short;
    impl Objects for Short {
        fn get(&self, _: u64, range: Range<usize>) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
            Box::pin(async move { Ok(Some(vec![1; range.len() - 1].into())) })
        }
        fn put(&self, _: u64, _: Bytes) -> BoxFuture<'_, io::Result<()>> {
            Box::pin(async { Ok(()) })
        }
        fn delete(&self, _: u64) -> BoxFuture<'_, io::Result<()>> {
            Box::pin(async { Ok(()) })
        }
    }
    let disk = ObjectExport::new(Short, 1 << 20);
    let error = runtime().block_on(disk.read(3, 10)).unwrap_err();
    assert_eq!(error.to_string(), "storage gave 9 bytes of 10");
}

/// Zeroes are quick over whole objects only, and objects that are zeroes are none.
#[test]
fn zeroes_take_objects_away() {
    runtime().block_on(async {
        let store = Arc::new(Store::default());
        let disk = disk(&store);
        disk.write_all_at(&[1; 3 * OBJECT], 0).await.unwrap();
        disk.flush().await.unwrap();
        let fast = Zeroing { may_punch: true, fast_only: true };
        let error = disk.write_zeroes(10, OBJECT as u64, fast).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(95));
        disk.write_zeroes(OBJECT as u64, OBJECT as u64, fast).await.unwrap();
        disk.trim(5, 2 * OBJECT as u64).await.unwrap();
        disk.flush().await.unwrap();
        let mut there: Vec<u64> = store.objects.lock().unwrap().keys().copied().collect();
        there.sort_unstable();
        assert_eq!(there, [0, 2]);
    });
}
