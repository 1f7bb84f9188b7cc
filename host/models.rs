//! The names of the routes, as a list of models.

use bytes::Bytes;
use serde::Serialize;

use crate::snapshot::Snapshot;

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

/// All models that have a name; patterns are none.
pub fn list(snapshot: &Snapshot) -> Bytes {
    let names = snapshot
        .routes
        .iter()
        .map(|route| route.rules.model.as_str())
        .filter(|name| !name.contains('*'));
    json(&List {
        object: "list",
        data: names.map(model).collect(),
    })
}

/// One model, if a route serves it.
pub fn one(snapshot: &Snapshot, id: &str) -> Option<Bytes> {
    snapshot.route(id).map(|_| json(&model(id)))
}

fn model(id: &str) -> Model<'_> {
    Model {
        id,
        object: "model",
        created: 0,
        owned_by: "switchyard",
    }
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("strings serialise").into()
}
