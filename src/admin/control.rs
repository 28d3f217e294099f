//! The Unix socket on which a running process is told to read its configuration again, or asked what that would do. A line there, lines
//! back: `ok` or `refused`, and what there is to say. Whoever may write to the socket may ask; its mode is 0600.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tracing::{debug, warn};

/// How long whoever connects may take to say what it wants, and to read what it is told.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long an answer may take: listeners that open look up names.
const ANSWER: Duration = Duration::from_secs(60);

/// Bytes of a question, and of an answer.
const QUESTION_MAX: u64 = 32;
const ANSWER_MAX: u64 = 1 << 20;

/// Wait after an accept that failed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(200);

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read the configuration again.
    Reload,
    /// Say what that would do.
    Plan,
}

impl Command {
    const ALL: [Self; 2] = [Self::Reload, Self::Plan];

    const fn text(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Plan => "plan",
        }
    }
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was done, or would be: one line for each thing.
    Done(Vec<String>),
    /// Everything is as it was: why.
    Refused(String),
}

/// An answer that is being found.
pub(crate) type Answering<'a> = std::pin::Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// Whoever answers.
pub(crate) trait Answers: Send + Sync {
    /// Does what is asked, or says what that would be.
    fn answer(&self, command: Command) -> Answering<'_>;
}

impl Answer {
    fn text(&self) -> String {
        // What is said is lines, whatever is in them.
        let line = |text: &String| text.replace('\n', " ");
        match self {
            Self::Done(lines) => format!("ok\n{}\n", lines.iter().map(line).collect::<Vec<_>>().join("\n")),
            Self::Refused(why) => format!("refused\n{}\n", line(why)),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(str::to_owned);
        match lines.next()?.as_str() {
            "ok" => Some(Self::Done(lines.collect())),
            "refused" => Some(Self::Refused(lines.next()?)),
            _ => None,
        }
    }
}

/// The socket of this process. Its file goes with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
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
        let listener = Self::bind(path).map_err(|source| ControlError { path: path.to_owned(), source })?;
        Ok(Self { listener, path: path.to_owned() })
    }

    fn bind(path: &Path) -> io::Result<UnixListener> {
        if let Ok(found) = fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there"));
            }
        }
        // Nobody connects before its mode is set.
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}", std::process::id()));
        let aside = PathBuf::from(aside);
        let _ = fs::remove_file(&aside);
        let listener = UnixListener::bind(&aside)?;
        let mode = fs::set_permissions(&aside, fs::Permissions::from_mode(0o600));
        if let Err(error) = mode.and_then(|()| fs::rename(&aside, path)) {
            let _ = fs::remove_file(&aside);
            return Err(error);
        }
        Ok(listener)
    }

    /// Answers one after the other, for ever.
    pub(crate) async fn serve(&self, answers: &dyn Answers) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if let Err(error) = exchange(stream, answers).await {
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

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn exchange(stream: UnixStream, answers: &dyn Answers) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut question = BufReader::new(read.take(QUESTION_MAX));
    timeout(PATIENCE, question.read_line(&mut line)).await??;
    let command = Command::ALL.into_iter().find(|command| command.text() == line.trim_end());
    let answer = match command {
        Some(command) => answers.answer(command).await,
        None => Answer::Refused("the questions are reload and plan".to_owned()),
    };
    timeout(PATIENCE, write.write_all(answer.text().as_bytes())).await?
}

/// Asks a process that runs.
///
/// # Errors
/// Nobody answers there.
pub async fn ask(path: &Path, command: Command) -> io::Result<Answer> {
    let mut stream = timeout(PATIENCE, UnixStream::connect(path)).await??;
    stream.write_all(format!("{}\n", command.text()).as_bytes()).await?;
    let mut text = String::new();
    timeout(ANSWER, stream.take(ANSWER_MAX).read_to_string(&mut text)).await??;
    Answer::read(&text).ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "there was no answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known;

    impl Answers for Known {
        fn answer(&self, command: Command) -> Answering<'_> {
            Box::pin(std::future::ready(match command {
                Command::Plan => Answer::Done(vec!["a\nb".to_owned(), "c".to_owned()]),
                Command::Reload => Answer::Refused("no".to_owned()),
            }))
        }
    }

    #[tokio::test]
    async fn a_question_gets_its_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let socket = ControlSocket::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let asking = async {
            assert_eq!(ask(&path, Command::Plan).await.unwrap(), Answer::Done(vec!["a b".into(), "c".into()]));
            assert_eq!(ask(&path, Command::Reload).await.unwrap(), Answer::Refused("no".into()));
            // Whoever asks something else, or nothing, keeps nobody from asking.
            let mut other = UnixStream::connect(&path).await.unwrap();
            other.write_all(b"shutdown\n").await.unwrap();
            drop(UnixStream::connect(&path).await.unwrap());
            assert!(matches!(ask(&path, Command::Plan).await.unwrap(), Answer::Done(_)));
        };
        tokio::select! {
            () = socket.serve(&Known) => unreachable!(),
            () = asking => {}
        }
        drop(socket);
        assert!(!path.exists() && ask(&path, Command::Plan).await.is_err());
    }

    #[tokio::test]
    async fn what_a_killed_process_has_left_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = ControlSocket::open(&path).unwrap();
        let error = ControlSocket::open(&path).unwrap_err().to_string();
        assert!(error.ends_with("control: another process answers there"), "{error}");
        drop(first);
        fs::write(&path, "precious").unwrap();
        let error = ControlSocket::open(&path).unwrap_err().to_string();
        assert!(error.ends_with("there is a file that is no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
