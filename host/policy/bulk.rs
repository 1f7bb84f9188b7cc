//! Splits the instructions that fill or copy any number of bytes, so that a guest can be interrupted between two parts.
//!
//! The clock stops a guest at its loops and calls. `memory.fill`, `memory.copy` and `memory.init` are one step each, of up to all of
//! its memory: with the largest memory that an operator may grant, one holds a thread for a second. So each of them that is not
//! known to be short goes to a function that does it in parts, unless its length is that of one part at most.
//!
//! What cannot be read is left as it is: it is not valid, or a step of it is bounded by the guest's memory alone, and counted as what
//! it takes.

use std::borrow::Cow;
use std::convert::Infallible;
use std::mem;

use wasm_encoder::reencode::{self, Reencode, ReencodeComponent};
use wasm_encoder::{
    BlockType, CodeSection, Component, ComponentSectionId, Function, FunctionSection, InstructionSink, Module,
    ModuleSection, RawSection, TypeSection, ValType,
};
use wasmparser::{
    CodeSectionReader, CompositeInnerType, FunctionBody, FunctionSectionReader, Operator, Parser, Payload, TypeRef,
    TypeSectionReader, Validator, WasmFeatures,
};

type Result<T, E = reencode::Error> = std::result::Result<T, E>;

/// Bytes of one part: some microseconds, and far more than most copies have.
const PART: i32 = 64 << 10;

/// The component with its long steps split; itself, where there is nothing to split or it cannot be read.
pub(super) fn split(component: &[u8]) -> Cow<'_, [u8]> {
    // What reads it below believes that it is valid.
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    if validator.validate_all(component).is_err() {
        return component.into();
    }
    let (mut all, mut out) = (Components { has_split: false }, Component::new());
    match all.parse_component(&mut out, Parser::new(0), component) {
        Ok(()) if all.has_split => out.finish().into(),
        Ok(()) | Err(_) => component.into(),
    }
}

/// An instruction that moves any number of bytes. Each takes where to, what or where from, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bulk {
    Fill { memory: u32 },
    Copy { to: u32, from: u32 },
    Init { memory: u32, data: u32 },
}

/// Copies components, and the modules in them by way of [`Plan`].
struct Components {
    has_split: bool,
}

/// What there is to do in one module.
#[derive(Default)]
struct Plan {
    /// How many parameters the types have, those of functions.
    parameters: Vec<u32>,
    imported: u32,
    /// The types of the module's own functions.
    functions: Vec<u32>,
    /// The function that is read next.
    next: usize,
    /// What is split, each by a function behind the module's own.
    bulks: Vec<Bulk>,
}

impl Bulk {
    fn of(operator: &Operator<'_>) -> Option<Self> {
        match *operator {
            Operator::MemoryFill { mem } => Some(Self::Fill { memory: mem }),
            Operator::MemoryCopy { dst_mem, src_mem } => Some(Self::Copy {
                to: dst_mem,
                from: src_mem,
            }),
            Operator::MemoryInit { mem, data_index } => Some(Self::Init {
                memory: mem,
                data: data_index,
            }),
            _ => None,
        }
    }

    fn write(self, code: &mut InstructionSink<'_>) {
        match self {
            Self::Fill { memory } => code.memory_fill(memory),
            Self::Copy { to, from } => code.memory_copy(to, from),
            Self::Init { memory, data } => code.memory_init(memory, data),
        };
    }

    /// A function that does it in parts: `(to, what, bytes)`. Whatever is out of bounds traps, as it does in one step; a part before
    /// it may have been written by then, which nobody sees any more.
    fn in_parts(self) -> Function {
        let mut function = Function::new([]);
        let code = &mut function.instructions();
        if let Self::Copy { .. } = self {
            // Where the ranges overlap, the part that would be overwritten goes first.
            code.local_get(0).local_get(1).i32_gt_u().if_(BlockType::Empty);
            self.backwards(code);
            code.else_();
            self.forwards(code);
            code.end();
        } else {
            self.forwards(code);
        }
        code.local_get(0).local_get(1).local_get(2);
        self.write(code);
        code.end();
        function
    }

    fn forwards(self, code: &mut InstructionSink<'_>) {
        code.loop_(BlockType::Empty).local_get(2).i32_const(PART).i32_gt_u();
        code.if_(BlockType::Empty).local_get(0).local_get(1).i32_const(PART);
        self.write(code);
        code.local_get(0).i32_const(PART).i32_add().local_set(0);
        if !matches!(self, Self::Fill { .. }) {
            code.local_get(1).i32_const(PART).i32_add().local_set(1);
        }
        code.local_get(2).i32_const(PART).i32_sub().local_set(2);
        code.br(1).end().end();
    }

    fn backwards(self, code: &mut InstructionSink<'_>) {
        code.loop_(BlockType::Empty).local_get(2).i32_const(PART).i32_gt_u();
        code.if_(BlockType::Empty);
        code.local_get(2).i32_const(PART).i32_sub().local_set(2);
        code.local_get(0).local_get(2).i32_add();
        code.local_get(1).local_get(2).i32_add();
        code.i32_const(PART);
        self.write(code);
        code.br(1).end().end();
    }
}

impl Plan {
    /// Reads what there is to do.
    fn of(module: &[u8]) -> Result<Self> {
        let mut plan = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        plan.parameters
                            .extend(group?.into_types().map(|ty| match ty.composite_type.inner {
                                CompositeInnerType::Func(ty) => ty.params().len() as u32,
                                _ => 0,
                            }));
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        plan.imported += u32::from(matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)));
                    }
                }
                Payload::FunctionSection(section) => {
                    plan.functions = section.into_iter().collect::<Result<_, _>>()?;
                }
                Payload::CodeSectionEntry(body) => plan.look_through(&body)?,
                _ => {}
            }
        }
        Ok(plan)
    }

    fn look_through(&mut self, body: &FunctionBody<'_>) -> Result<()> {
        let mut before = None;
        for operator in body.get_operators_reader()? {
            let operator = operator?;
            if let Some(bulk) = long(&operator, mem::replace(&mut before, constant(&operator)))
                && !self.bulks.contains(&bulk)
            {
                self.bulks.push(bulk);
            }
        }
        Ok(())
    }

    /// Writes a step: at once, or by its function where it is long. `locals` are three of no other use.
    fn write(&self, bulk: Bulk, locals: u32, code: &mut InstructionSink<'_>) {
        let own = self.imported + self.functions.len() as u32;
        let position = self.bulks.iter().position(|known| *known == bulk);
        let Some(position) = position else {
            return bulk.write(code);
        };
        let [to, what, bytes] = [locals, locals + 1, locals + 2];
        code.local_set(bytes).local_set(what).local_set(to);
        code.local_get(bytes).i32_const(PART).i32_gt_u();
        code.if_(BlockType::Empty);
        code.local_get(to)
            .local_get(what)
            .local_get(bytes)
            .call(own + position as u32);
        code.else_();
        code.local_get(to).local_get(what).local_get(bytes);
        bulk.write(code);
        code.end();
    }
}

/// What an instruction puts on the stack, if it is a number that is known.
fn constant(operator: &Operator<'_>) -> Option<i32> {
    match operator {
        Operator::I32Const { value } => Some(*value),
        _ => None,
    }
}

/// The step that an instruction is, unless it is known to be short: `bytes` is its length, where the instruction before says it.
fn long(operator: &Operator<'_>, bytes: Option<i32>) -> Option<Bulk> {
    let is_short = bytes.is_some_and(|bytes| (0..=PART).contains(&bytes));
    Bulk::of(operator).filter(|_| !is_short)
}

impl Reencode for Components {
    type Error = Infallible;
}

impl ReencodeComponent for Components {
    fn parse_component_submodule(&mut self, component: &mut Component, _parser: Parser, module: &[u8]) -> Result<()> {
        let mut plan = Plan::of(module)?;
        if plan.bulks.is_empty() {
            component.section(&RawSection {
                id: ComponentSectionId::CoreModule.into(),
                data: module,
            });
            return Ok(());
        }
        let mut split = Module::new();
        plan.parse_core_module(&mut split, Parser::new(0), module)?;
        component.section(&ModuleSection(&split));
        self.has_split = true;
        Ok(())
    }
}

impl Reencode for Plan {
    type Error = Infallible;

    fn parse_type_section(&mut self, types: &mut TypeSection, section: TypeSectionReader<'_>) -> Result<()> {
        reencode::utils::parse_type_section(self, types, section)?;
        types.ty().function([ValType::I32; 3], []);
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: FunctionSectionReader<'_>,
    ) -> Result<()> {
        reencode::utils::parse_function_section(self, functions, section)?;
        let in_parts = self.parameters.len() as u32;
        self.bulks.iter().for_each(|_| _ = functions.function(in_parts));
        Ok(())
    }

    fn parse_code_section(&mut self, code: &mut CodeSection, section: CodeSectionReader<'_>) -> Result<()> {
        reencode::utils::parse_code_section(self, code, section)?;
        self.bulks.iter().for_each(|bulk| _ = code.function(&bulk.in_parts()));
        Ok(())
    }

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Result<()> {
        let ty = self.functions.get(self.next).copied().unwrap_or_default();
        let mut count = self.parameters.get(ty as usize).copied().unwrap_or_default();
        self.next += 1;
        let mut locals = Vec::new();
        for local in body.get_locals_reader()? {
            let (of_this_type, ty) = local?;
            count += of_this_type;
            locals.push((of_this_type, self.val_type(ty)?));
        }
        locals.push((3, ValType::I32));
        let mut function = Function::new(locals);
        let mut before = None;
        for operator in body.get_operators_reader()? {
            let operator = operator?;
            match long(&operator, mem::replace(&mut before, constant(&operator))) {
                Some(bulk) => self.write(bulk, count, &mut function.instructions()),
                None => _ = function.instruction(&self.instruction(operator)?),
            }
        }
        code.function(&function);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::component::{Component as Compiled, Linker};
    use wasmtime::{Config, Engine, Store};

    use super::*;

    /// A component with a function for each kind of step, and one that reads a byte.
    const COMPONENT: &str = r#"(component
        (core module $m
            (import "" "nothing" (func))
            (memory 16)
            (data $letters "abcdefgh")
            (func (export "fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2)))
            (func (export "copy") (param i32 i32 i32) (local i64) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
            (func (export "init") (param i32 i32 i32) (memory.init $letters (local.get 0) (local.get 1) (local.get 2)))
            (func (export "short") (memory.fill (i32.const 0) (i32.const 7) (i32.const 8)))
            (func (export "get") (param i32) (result i32) (i32.load8_u (local.get 0))))
        (core module $n (func (export "nothing")))
        (core instance $n (instantiate $n))
        (core instance $i (instantiate $m (with "" (instance $n))))
        (func (export "fill") (param "a" u32) (param "b" u32) (param "c" u32) (canon lift (core func $i "fill")))
        (func (export "copy") (param "a" u32) (param "b" u32) (param "c" u32) (canon lift (core func $i "copy")))
        (func (export "init") (param "a" u32) (param "b" u32) (param "c" u32) (canon lift (core func $i "init")))
        (func (export "get") (param "a" u32) (result u32) (canon lift (core func $i "get"))))"#;

    struct Guest {
        store: Store<()>,
        instance: wasmtime::component::Instance,
    }

    impl Guest {
        fn new(component: &[u8]) -> Self {
            let engine = Engine::new(&Config::new()).unwrap();
            let component = Compiled::from_binary(&engine, component).unwrap();
            let mut store = Store::new(&engine, ());
            let instance = Linker::new(&engine).instantiate(&mut store, &component).unwrap();
            Self { store, instance }
        }

        fn call(&mut self, name: &str, arguments: (u32, u32, u32)) -> wasmtime::Result<()> {
            let function = self
                .instance
                .get_typed_func::<(u32, u32, u32), ()>(&mut self.store, name)?;
            function.call(&mut self.store, arguments)
        }

        fn get(&mut self, at: u32) -> u32 {
            let function = self.instance.get_typed_func::<(u32,), (u32,)>(&mut self.store, "get");
            function.unwrap().call(&mut self.store, (at,)).unwrap().0
        }
    }

    #[test]
    fn a_split_component_does_the_same() {
        let whole = wat::parse_str(COMPONENT).unwrap();
        let split = split(&whole);
        assert!(matches!(split, Cow::Owned(_)));
        let (mut before, mut after) = (Guest::new(&whole), Guest::new(&split));
        let part = PART as u32;
        let steps = [
            ("init", (10, 2, 5)),
            ("fill", (100, 3, part)),
            ("fill", (70_000, 4, 3 * part + 5)),
            // Forwards and backwards, apart and overlapping.
            ("copy", (8, 10, 2 * part)),
            ("copy", (50_000, 20, 3 * part + 1)),
            ("copy", (9, 0, 5 * part)),
            ("copy", (0, 200_000, 2 * part + 77)),
            ("fill", (1 << 20, 1, 0)),
        ];
        for (name, arguments) in steps {
            before.call(name, arguments).unwrap();
            after.call(name, arguments).unwrap();
            for at in (0..1 << 20).step_by(997).chain(0..200) {
                assert_eq!(before.get(at), after.get(at), "byte {at} after {name} {arguments:?}");
            }
        }
    }

    #[test]
    fn what_is_out_of_bounds_traps_as_before() {
        let whole = wat::parse_str(COMPONENT).unwrap();
        let split = split(&whole);
        let end = 1 << 20;
        for (name, arguments) in [
            ("fill", (end - 100_000, 1, 100_001)),
            ("fill", (u32::MAX - 3, 1, 500_000)),
            ("copy", (0, end - 200_000, 200_001)),
            ("copy", (end - 200_000, 0, 200_001)),
            ("copy", (end + 1, 0, 0)),
            ("init", (0, 4, 100_000)),
        ] {
            assert!(
                Guest::new(&whole).call(name, arguments).is_err(),
                "{name} {arguments:?}"
            );
            assert!(
                Guest::new(&split).call(name, arguments).is_err(),
                "{name} {arguments:?}"
            );
        }
    }

    #[test]
    fn what_has_no_long_step_and_what_is_no_component_is_left_alone() {
        let short = COMPONENT.replace("(local.get 2)", "(i32.const 65536)");
        let short = wat::parse_str(short).unwrap();
        assert!(matches!(split(&short), Cow::Borrowed(_)));
        let whole = wat::parse_str(COMPONENT).unwrap();
        for broken in [&whole[..whole.len() / 2], b"", b"\0asm\x0d\0\x01\0\x01"] {
            assert!(matches!(split(broken), Cow::Borrowed(_)));
        }
    }
}
