#![allow(missing_docs)]
pub struct Gemini;
impl Gemini {
    pub fn array_encoder(_: &super::Asked) -> Box<dyn super::Encode> {
        unimplemented!()
    }
}
