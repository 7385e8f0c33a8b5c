//! Which files are opened below some directories, as the kernel tells it (inotify).

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Watches from the moment it is made.
pub struct Watch {
    events: OwnedFd,
    /// Directories by the number of their watch, relative to their root, with a slash at the end.
    directories: HashMap<i32, String>,
}

impl Watch {
    /// Of these places, those that are directories are watched, with what is below them.
    pub fn over<'a>(places: impl IntoIterator<Item = &'a str>) -> Self {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let mut directories = HashMap::new();
        for root in places.into_iter().map(Path::new).filter(|root| root.is_dir()) {
            for found in walkdir::WalkDir::new(root) {
                let found = found.unwrap();
                if found.file_type().is_dir() {
                    let flags = WatchFlags::OPEN | WatchFlags::ONLYDIR;
                    let number = inotify::add_watch(&events, found.path(), flags).unwrap();
                    let name = found.path().strip_prefix(root).unwrap().to_str().unwrap();
                    let slash = if name.is_empty() { "" } else { "/" };
                    directories.insert(number, format!("{name}{slash}"));
                }
            }
        }
        Self { events, directories }
    }

    /// The files that were opened so far, sorted; directories do not count.
    #[track_caller]
    pub fn opened(self) -> Vec<String> {
        let mut buffer = vec![MaybeUninit::uninit(); 64 << 10];
        let mut reader = Reader::new(&self.events, &mut buffer);
        let mut opened = Vec::new();
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(error) => panic!("{error}"),
            };
            assert!(!event.events().contains(ReadFlags::QUEUE_OVERFLOW), "too much was opened");
            if let (false, Some(name)) =
                (event.events().contains(ReadFlags::ISDIR), event.file_name())
            {
                let directory = &self.directories[&event.wd()];
                opened.push(format!("{directory}{}", name.to_str().unwrap()));
            }
        }
        opened.sort_unstable();
        opened.dedup();
        opened
    }
}
