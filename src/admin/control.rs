//! The Unix socket on which a running process is told to read its configuration again, or asked what that would do. A question there,
//! lines back: `ok` or `refused`, and what there is to say, or `starting`. Whoever may write to the socket may ask; its mode is 0600.
//!
//! ```text
//! reload                      read the configuration again
//! plan                        what would that do?
//! plan LENGTH NAME, and text  what would it do with this text in place of the file?
//! ```

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::config::{FileMode, UnixSocketConfig};
use crate::listener::{SocketFile, listen_at};

/// How long whoever connects may take to say what it wants, and to read what it is told.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long an answer may take: listeners that open look up names.
const ANSWER: Duration = Duration::from_secs(60);

/// Bytes of the line of a question, which may have a path.
const LINE_MAX: u64 = 8 << 10;

/// Bytes of a configuration that is to be looked at.
const CANDIDATE_MAX: usize = 16 << 20;

/// One that has more.
const TOO_LONG: &str = "a configuration that is looked at may have 16 MiB";

/// Bytes of an answer.
const ANSWER_MAX: u64 = 1 << 20;

/// Wait after an accept that failed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(200);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read the configuration again.
    Reload,
    /// Say what that would do, perhaps with another text in place of its file.
    Plan(Option<Candidate>),
}

/// A configuration that may come to count.
#[derive(Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What its file is called, for what is wrong in it.
    pub name: String,
    /// What is in it.
    pub text: String,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may have secrets.
        f.debug_struct("Candidate").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Command {
    /// As it is asked.
    fn question(&self) -> String {
        match self {
            Self::Reload => "reload\n".to_owned(),
            Self::Plan(None) => "plan\n".to_owned(),
            Self::Plan(Some(Candidate { name, text })) => {
                format!("plan {} {}\n{text}", text.len(), name.replace('\n', " "))
            }
        }
    }

    /// Reads a question; the error says what is wrong with it.
    async fn read(read: impl tokio::io::AsyncRead + Unpin) -> io::Result<Result<Self, String>> {
        let (mut question, mut line) = (BufReader::new(read), String::new());
        (&mut question).take(LINE_MAX).read_line(&mut line).await?;
        let line = line.trim_end_matches(['\r', '\n']);
        let (length, name) = match line {
            "reload" => return Ok(Ok(Self::Reload)),
            "plan" => return Ok(Ok(Self::Plan(None))),
            _ => match line.strip_prefix("plan ").and_then(|rest| rest.split_once(' ')) {
                Some((length, name)) => (length.parse::<usize>(), name.to_owned()),
                None => return Ok(Err("the questions are reload and plan".to_owned())),
            },
        };
        let Some(length) = length.ok().filter(|length| *length <= CANDIDATE_MAX) else {
            return Ok(Err(TOO_LONG.to_owned()));
        };
        let mut text = vec![0; length];
        question.read_exact(&mut text).await?;
        let text = String::from_utf8(text);
        Ok(text
            .map(|text| Self::Plan(Some(Candidate { name, text })))
            .map_err(|_| "the configuration is no UTF-8".to_owned()))
    }
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was done, or would be: one line for each thing.
    Done(Vec<String>),
    /// Everything is as it was: why.
    Refused(String),
    /// The process starts, and is to be asked later.
    Starting,
}

/// An answer that is being found.
pub(crate) type Answering<'a> = std::pin::Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// Whoever answers.
pub(crate) trait Answers: Send + Sync {
    /// Does what is asked, or says what that would be.
    fn answer(&self, command: Command) -> Answering<'_>;
}

/// Where whoever answers is to be found, once the process has started.
pub(crate) type Desk = OnceLock<Arc<dyn Answers>>;

impl Answer {
    fn text(&self) -> String {
        // What is said is lines, whatever is in them.
        let line = |text: &String| text.replace('\n', " ");
        match self {
            Self::Done(lines) => format!("ok\n{}\n", lines.iter().map(line).collect::<Vec<_>>().join("\n")),
            Self::Refused(why) => format!("refused\n{}\n", line(why)),
            Self::Starting => "starting\n".to_owned(),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(str::to_owned);
        match lines.next()?.as_str() {
            "ok" => Some(Self::Done(lines.collect())),
            "refused" => Some(Self::Refused(lines.next()?)),
            "starting" => Some(Self::Starting),
            _ => None,
        }
    }
}

/// The socket of this process. Its file goes with it.
#[derive(Debug)]
pub struct ControlSocket {
    /// It goes first: one whose socket is closed is taken for one that was left.
    _file: SocketFile,
    listener: UnixListener,
}

/// The socket cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("admin.socket: {}: {source}", path.display())]
pub struct ControlError {
    path: PathBuf,
    source: io::Error,
}

impl ControlSocket {
    /// Opens it. What a process that was killed has left there is replaced.
    ///
    /// # Errors
    /// It cannot be made there, something else is there, or another process answers.
    pub fn open(path: &Path) -> Result<Self, ControlError> {
        let config = UnixSocketConfig { path: path.to_owned(), mode: FileMode::OWNER, group: None };
        let opened = listen_at(&config).map(|(listener, file)| Self { _file: file, listener });
        opened.map_err(|source| ControlError { path: path.to_owned(), source })
    }

    /// Answers one after the other, for ever; until somebody is at the desk, that the process starts.
    pub(crate) async fn serve(&self, desk: &Desk) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if let Err(error) = exchange(stream, desk).await {
                        debug!(%error, "admin.socket: no answer");
                    }
                }
                Err(error) => {
                    warn!(%error, "admin.socket: cannot accept; trying again");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
}

async fn exchange(stream: UnixStream, desk: &Desk) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let answer = match (timeout(PATIENCE, Command::read(read)).await??, desk.get()) {
        (Err(wrong), _) => Answer::Refused(wrong),
        (Ok(_), None) => Answer::Starting,
        (Ok(command), Some(answers)) => answers.answer(command).await,
    };
    timeout(PATIENCE, write.write_all(answer.text().as_bytes())).await?
}

/// Asks a process that runs.
///
/// # Errors
/// Nobody answers there, or the question is too long.
pub async fn ask(path: &Path, command: Command) -> io::Result<Answer> {
    if matches!(&command, Command::Plan(Some(candidate)) if candidate.text.len() > CANDIDATE_MAX) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, TOO_LONG));
    }
    let mut stream = timeout(PATIENCE, UnixStream::connect(path)).await??;
    timeout(ANSWER, stream.write_all(command.question().as_bytes())).await??;
    let mut text = String::new();
    timeout(ANSWER, stream.take(ANSWER_MAX).read_to_string(&mut text)).await??;
    Answer::read(&text).ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "there was no answer"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    struct Known;

    impl Answers for Known {
        fn answer(&self, command: Command) -> Answering<'_> {
            Box::pin(std::future::ready(match command {
                Command::Plan(None) => Answer::Done(vec!["a\nb".to_owned(), "c".to_owned()]),
                Command::Plan(Some(Candidate { name, text })) => Answer::Done(vec![name, text.len().to_string()]),
                Command::Reload => Answer::Refused("no".to_owned()),
            }))
        }
    }

    fn candidate(text: String) -> Command {
        Command::Plan(Some(Candidate { name: "new file.toml".to_owned(), text }))
    }

    #[tokio::test]
    async fn a_question_gets_its_answer() {
        let (dir, desk) = (tempfile::tempdir().unwrap(), Desk::new());
        let path = dir.path().join("control");
        let socket = ControlSocket::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let asking = async {
            assert_eq!(ask(&path, Command::Reload).await.unwrap(), Answer::Starting);
            assert_eq!(ask(&path, candidate("x".to_owned())).await.unwrap(), Answer::Starting);
            assert!(desk.set(Arc::new(Known)).is_ok());
            let plan = Command::Plan(None);
            assert_eq!(ask(&path, plan.clone()).await.unwrap(), Answer::Done(vec!["a b".into(), "c".into()]));
            assert_eq!(ask(&path, Command::Reload).await.unwrap(), Answer::Refused("no".into()));
            // Whoever asks something else, or nothing, keeps nobody from asking.
            let mut other = UnixStream::connect(&path).await.unwrap();
            other.write_all(b"shutdown\n").await.unwrap();
            drop(UnixStream::connect(&path).await.unwrap());
            assert!(matches!(ask(&path, plan).await.unwrap(), Answer::Done(_)));
        };
        tokio::select! {
            () = socket.serve(&desk) => unreachable!(),
            () = asking => {}
        }
        drop(socket);
        assert!(!path.exists() && ask(&path, Command::Reload).await.is_err());
    }

    #[tokio::test]
    async fn a_configuration_that_is_asked_about_comes_whole_and_has_a_limit() {
        let (dir, desk) = (tempfile::tempdir().unwrap(), Desk::new());
        let path = dir.path().join("control");
        let socket = ControlSocket::open(&path).unwrap();
        assert!(desk.set(Arc::new(Known)).is_ok());
        let asking = async {
            for length in [0, 1, 3 << 20] {
                let said = ask(&path, candidate("ä\n".repeat(length))).await.unwrap();
                assert_eq!(said, Answer::Done(vec!["new file.toml".to_owned(), (3 * length).to_string()]));
            }
            assert!(ask(&path, candidate("x".repeat(CANDIDATE_MAX + 1))).await.is_err());
            let mut long = UnixStream::connect(&path).await.unwrap();
            long.write_all(format!("plan {} x\n", CANDIDATE_MAX + 1).as_bytes()).await.unwrap();
            let mut said = String::new();
            long.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, format!("refused\n{TOO_LONG}\n"));
            // What never comes is not waited for.
            let mut other = UnixStream::connect(&path).await.unwrap();
            other.write_all(b"plan 10 x\nabc").await.unwrap();
            assert!(matches!(ask(&path, Command::Plan(None)).await.unwrap(), Answer::Done(_)));
        };
        tokio::select! {
            () = socket.serve(&desk) => unreachable!(),
            () = asking => {}
        }
    }

    #[tokio::test]
    async fn what_a_killed_process_has_left_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = ControlSocket::open(&path).unwrap();
        let error = ControlSocket::open(&path).unwrap_err().to_string();
        assert!(error.ends_with("control: another process listens there"), "{error}");
        // Somebody has put his own there: it is not ours to remove.
        fs::remove_file(&path).unwrap();
        let _theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(first);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        let error = ControlSocket::open(&path).unwrap_err().to_string();
        assert!(error.contains("that is no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
