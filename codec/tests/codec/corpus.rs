//! Replays the seeds of the fuzz target `decode`, `corpus/PACKET/…`: the first byte says how the rest is read, as in
//! `fuzz/bodies/decode.rs`. What a fuzzer finds is added there and stays found.

use std::{fs, path::Path};

use mqtt_codec::{DecoderOptions, Role, Version};

use crate::{bytes_text::decode_one, fuzzed, hostile::survives};

fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for packet in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap() {
        let packet = packet.unwrap();
        for seed in fs::read_dir(packet.path()).unwrap() {
            let name = packet.file_name().into_string().unwrap();
            seeds.push((name, fs::read(seed.unwrap().path()).unwrap()));
        }
    }
    seeds
}

#[test]
fn every_seed_is_survived() {
    let seeds = seeds();
    assert!(seeds.len() > 100, "only {} seeds", seeds.len());
    for (_, bytes) in seeds {
        survives(&bytes[1..]);
        fuzzed::decode::run(&bytes);
    }
}

#[test]
fn every_packet_has_a_seed_that_is_read_as_it() {
    let mut read = Vec::new();
    for (directory, bytes) in seeds() {
        let how = bytes[0];
        let options = DecoderOptions {
            role: if how & 1 == 0 { Role::Server } else { Role::Client },
            version: [None, Some(Version::V31), Some(Version::V311), Some(Version::V5)][usize::from(how >> 2 & 3)],
            ..DecoderOptions::default()
        };
        // Foreign bytes may not even be a whole packet; they are not asked here.
        if directory != "foreign"
            && let Ok(packet) = decode_one(options, &bytes[1..])
        {
            assert_eq!(packet.packet_type().name().to_lowercase(), directory);
            read.push(packet.packet_type());
        }
    }
    read.sort_unstable();
    read.dedup();
    assert_eq!(read.len(), 15, "{read:?}");
}
