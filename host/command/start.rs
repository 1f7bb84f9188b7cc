//! The configuration that `serve` starts with: the one on disk, or the last one that was live where that is broken and the operator
//! wants it so.

use std::path::PathBuf;

use pointsman::config::{Config, ConfigErrors, Source};
use pointsman::last_good;

use super::output::complain;
use super::source::environment;

/// See the module.
pub struct Start {
    /// What is served.
    pub config: Config,
    /// Its text, where it is the one on disk.
    pub text: Option<String>,
    /// Why the one on disk is not served.
    pub refused: Option<ConfigErrors>,
}

impl Start {
    /// Reads the configuration.
    pub fn read(source: &Source, may_use_last_good: bool) -> Result<Self, ConfigErrors> {
        let mut reading = source.read(&environment);
        let (text, state) = (reading.text.take(), reading.config.state.clone());
        let errors = match reading.finish() {
            Ok(config) => {
                return Ok(Self {
                    config,
                    text,
                    refused: None,
                });
            }
            Err(errors) => errors,
        };
        if !may_use_last_good {
            return Err(errors);
        }
        match last_good(source, state) {
            Ok(config) => Ok(Self {
                config,
                text: None,
                refused: Some(errors),
            }),
            Err(why) => {
                complain(why);
                Err(errors)
            }
        }
    }
}

/// The last configuration that was live. `state`: where the broken one says that the state folder is, as far as it can be read.
fn last_good(source: &Source, state: PathBuf) -> Result<Config, String> {
    // What systemd calls the folder of a unit's state: an emptied file does not say where it is.
    let of_unit = environment("STATE_DIRECTORY").map(PathBuf::from);
    let places: Vec<PathBuf> = std::iter::once(state).chain(of_unit).collect();
    for place in &places {
        match last_good::recall(place) {
            Ok(None) => {}
            Ok(Some((path, text))) => {
                let read = source.read_text(&text, &path, &environment).finish();
                return read.map_err(|errors| format!("the last good configuration cannot be used either:\n{errors}"));
            }
            Err(error) => {
                let place = place.display();
                return Err(format!(
                    "the last good configuration in {place} cannot be read: {error}"
                ));
            }
        }
    }
    let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
    Err(format!(
        "there is no last good configuration in {}",
        places.join(" or ")
    ))
}
