//! The loop on a clock that stands still while anything can be done: random vendors and random policies, thousands of hours of
//! outages in seconds. Connections are in memory; all between them is the gateway as it is, with real Wasm.

mod paused {
    // What the stories are told with.
    mod client;
    #[path = "../support/guests.rs"]
    mod guests;
    #[path = "../gateway/heard.rs"]
    #[expect(dead_code, reason = "here vendors speak one format")]
    mod heard;
    mod street;
    mod yard;

    // The stories.
    mod chance;
}
