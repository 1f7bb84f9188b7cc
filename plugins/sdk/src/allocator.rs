//! The guest's memory: a bump allocator that starts over when nothing is live.
//!
//! A decision allocates its arguments, thinks, and frees everything, so the plainest allocator is the best one: it
//! touches one contiguous stretch of memory, and what a fresh instance costs the gateway is proportional to the pages
//! it touched. Because it starts over when nothing is live, an instance that is used again does not grow either. Until
//! then, what is freed is not used again unless it was the last.

use std::cell::Cell;
use std::ops::Range;

/// Which addresses are taken. Knows neither pointers nor memory, so that it can be tested anywhere.
struct Arena {
    /// End of what is taken; means nothing while `live` is zero.
    next: Cell<usize>,
    /// Allocations that have not been freed.
    live: Cell<usize>,
}

impl Arena {
    const fn new() -> Self {
        // Zeros, and not the base of the heap, which only the linker knows.
        Self {
            next: Cell::new(0),
            live: Cell::new(0),
        }
    }

    /// Where an allocation would go in a heap that begins at `base`. `align` is a power of two. `None` when there is no
    /// such address.
    fn place(&self, base: usize, size: usize, align: usize) -> Option<Range<usize>> {
        let next = if self.live.get() == 0 { base } else { self.next.get() };
        let start = next.checked_add(align - 1)? & !(align - 1);
        Some(start..start.checked_add(size)?)
    }

    /// Takes what [`place`](Self::place) found.
    fn take(&self, place: &Range<usize>) {
        self.live.set(self.live.get() + 1);
        self.next.set(place.end);
    }

    /// Whether this allocation is the last, and so may grow and shrink where it is.
    fn is_last(&self, place: &Range<usize>) -> bool {
        self.next.get() == place.end
    }

    /// Gives back what was taken.
    fn release(&self, place: &Range<usize>) {
        self.live.set(self.live.get() - 1);
        if self.is_last(place) {
            self.next.set(place.start);
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod guest {
    use super::{Arena, Range};
    use std::alloc::{GlobalAlloc, Layout};
    use std::arch::wasm32::{memory_grow, memory_size};

    const PAGE_BYTES: usize = 65_536;

    #[global_allocator]
    static ALLOCATOR: Bump = Bump(Arena::new());

    struct Bump(Arena);

    // SAFETY: the contract has no threads, and nothing in here calls out, so that nobody can come in meanwhile.
    unsafe impl Sync for Bump {}

    unsafe extern "C" {
        /// Set by the linker: its address is the first that no static data or stack lies at.
        static __heap_base: u8;
    }

    fn range(start: *mut u8, size: usize) -> Range<usize> {
        start as usize..start as usize + size
    }

    /// Whether memory reaches to `end`, after growing it where it must.
    #[inline]
    fn reaches(end: usize) -> bool {
        end <= memory_size::<0>() * PAGE_BYTES || grow(end)
    }

    // Out of line, because hardly any decision comes here.
    #[cold]
    #[inline(never)]
    fn grow(end: usize) -> bool {
        let missing = end.div_ceil(PAGE_BYTES) - memory_size::<0>();
        memory_grow::<0>(missing) != usize::MAX
    }

    // SAFETY: `place` hands out aligned addresses at or after `__heap_base`, which nothing else uses, and at or after
    // the end of every live allocation: `next` goes back only to the start of the last one, when that is freed, or to
    // the base, when none is live. `reaches` has made sure that there is memory behind them.
    unsafe impl GlobalAlloc for Bump {
        #[inline]
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let base = &raw const __heap_base as usize;
            match self.0.place(base, layout.size(), layout.align()) {
                Some(place) if reaches(place.end) => {
                    self.0.take(&place);
                    place.start as *mut u8
                }
                _ => std::ptr::null_mut(),
            }
        }

        #[inline]
        unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
            self.0.release(&range(start, layout.size()));
        }

        unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
            let (old, new) = (range(start, layout.size()), range(start, new_size));
            if self.0.is_last(&old) {
                if !reaches(new.end) {
                    return std::ptr::null_mut();
                }
                self.0.next.set(new.end);
                return start;
            }
            if new_size <= layout.size() {
                return start;
            }
            // SAFETY: the caller's promises about `start`, `layout` and `new_size` are all that these ask for; the new
            // allocation lies after the old one, which is live, so the two do not overlap.
            unsafe {
                let moved = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
                if !moved.is_null() {
                    moved.copy_from_nonoverlapping(start, layout.size());
                    self.dealloc(start, layout);
                }
                moved
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: usize = 1_001;

    fn take(arena: &Arena, size: usize, align: usize) -> Range<usize> {
        let place = arena.place(BASE, size, align).unwrap();
        arena.take(&place);
        place
    }

    #[test]
    fn places_follow_each_other_aligned() {
        let arena = Arena::new();
        assert_eq!(take(&arena, 3, 1), 1_001..1_004);
        assert_eq!(take(&arena, 8, 8), 1_008..1_016);
        assert_eq!(take(&arena, 1, 1), 1_016..1_017);
        assert_eq!(take(&arena, 4, 4), 1_020..1_024);
    }

    #[test]
    fn starts_over_when_nothing_is_live() {
        let arena = Arena::new();
        let (first, second) = (take(&arena, 10, 1), take(&arena, 10, 1));
        arena.release(&first);
        assert_eq!(
            take(&arena, 1, 1),
            1_021..1_022,
            "second is live, so first's place is not used again"
        );
        arena.release(&second);
        arena.release(&(1_021..1_022));
        assert_eq!(take(&arena, 1, 1), 1_001..1_002);
    }

    #[test]
    fn the_last_gives_its_place_back() {
        let arena = Arena::new();
        let first = take(&arena, 10, 1);
        let second = take(&arena, 10, 1);
        assert!(arena.is_last(&second) && !arena.is_last(&first));
        arena.release(&second);
        assert_eq!(take(&arena, 5, 1), 1_011..1_016);
    }

    #[test]
    fn the_end_of_the_address_space_is_not_wrapped_around() {
        let arena = Arena::new();
        assert_eq!(arena.place(BASE, usize::MAX, 1), None);
        take(&arena, usize::MAX - BASE, 1);
        assert_eq!(arena.place(BASE, 1, 16), None);
    }
}
