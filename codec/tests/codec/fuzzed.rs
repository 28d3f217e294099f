//! What the fuzz targets do, on bytes and texts that nobody would think of: the targets themselves need a nightly compiler, and nobody
//! builds them with every change. The seeds of `decode` are in `corpus`.

use proptest::{collection::vec, prelude::*};

use crate::arbitrary::cases;

#[path = "../../fuzz/bodies/decode.rs"]
pub(crate) mod decode;
#[path = "../../fuzz/bodies/topics.rs"]
mod topics;

#[test]
fn a_filter_and_its_topic_match() {
    for text in ["a/+\na/b", "$share/g/#\na/b", "a\na"] {
        assert!(topics::run(text), "{text:?}");
    }
    assert!(!topics::run("a\nb"));
}

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn a_filter_and_a_topic(text in "(\\$share/)?([ab+#$/]|\\PC){0,8}\n([ab$/]|\\PC){0,8}") {
        topics::run(&text);
    }

    #[test]
    fn a_connection(bytes in vec(any::<u8>(), 0..64)) {
        decode::run(&bytes);
    }
}
