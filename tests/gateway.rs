//! Black-box tests: the real gateway on real sockets, with real Wasm and scripted vendors.
//!
//! Each test starts a gateway of its own, with a configuration, plugin folder and state folder of its own, and vendors that
//! do exactly what a script says. Nothing here knows the gateway's code: it is told of outcomes by its answers, its admin
//! listener, its log and its exit code.

mod gateway {
    // What the stories are told with.
    mod client;
    mod frames;
    #[path = "../support/guests.rs"]
    mod guests;
    mod heard;
    mod message;
    mod orderly;
    mod recorded;
    mod running;
    mod script;
    mod setup;
    mod strict;
    mod vendor;

    // The stories.
    mod access;
    mod admin;
    mod after_commit;
    mod bad_request;
    mod bad_vendor;
    mod bug_reports;
    mod chance;
    mod check;
    mod clients;
    mod clouds;
    mod continuation;
    mod cuts;
    mod deadlines;
    mod descriptors;
    mod detection;
    mod encodings;
    mod floods;
    mod formats;
    mod half_closed;
    mod health;
    mod holding;
    mod hostile;
    mod keys;
    mod large_bodies;
    mod last_good;
    mod lifecycle;
    mod limits;
    mod log_level;
    mod metrics;
    mod outage;
    mod overview;
    mod pages;
    mod pass_through;
    mod picks;
    mod policies;
    mod protocols;
    mod reaching;
    mod ready_made;
    mod rotation;
    mod sessions;
    mod signals;
    mod simulated;
    mod start;
    mod state;
    mod switches;
    mod telling;
    mod tracing;
    mod unfinished;
    mod unread;
    mod vendor_rules;
}
