//! Mutants of one file, each behind a switch, so that one build holds all of them.
//!
//! Where the text of a mutant begins and ends stands in comments: by them the compiler's errors are told apart.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
};

use proc_macro2::Span;
use syn::{
    spanned::Spanned as _,
    visit::{self, Visit},
};

/// Kind, line and column of a mutant, both from 1, as cargo-mutants says them.
pub type Place = (String, usize, usize);

/// A mutant's number, and the text that takes the place of what is there.
pub type Wanted = HashMap<Place, Vec<(u32, String)>>;

/// Returns `source` with the wanted mutants in it, and the numbers of those that could be put in. Functions of the names in
/// `consts` stay `const`, and have none: no switch can be asked in a constant.
pub fn rewrite(source: &str, wanted: &Wanted, consts: &BTreeSet<String>) -> (String, BTreeSet<u32>) {
    let file = syn::parse_file(source).expect("the tree compiles");
    let mut rewriter = Rewriter { source, wanted, consts, edits: BTreeMap::new(), done: BTreeSet::new() };
    rewriter.visit_file(&file);
    (rewriter.text(0..source.len()), rewriter.done)
}

/// Returns the innermost mutants around `range` of a rewritten text: one, or those of one operator.
pub fn around(text: &str, range: Range<usize>) -> Vec<u32> {
    let mut marks = Vec::new();
    for (open, close) in [("/*M", "/*E"), ("/*N", "/*F")] {
        for (at, _) in text.match_indices(open) {
            let Some((number, _)) = text[at + open.len()..].split_once("*/") else { continue };
            let Some(len) = text[at..].find(&format!("{close}{number}*/")) else { continue };
            let Ok(number) = number.parse::<u32>() else { continue };
            marks.push((at..at + len, open == "/*N", number));
        }
    }
    let inside =
        |outer: &Range<usize>, inner: &Range<usize>| outer.start <= inner.start && inner.end <= outer.end;
    let innermost =
        marks.iter().filter(|(mark, ..)| inside(mark, &range)).min_by_key(|(mark, ..)| mark.len());
    let Some((outer, is_operator, first)) = innermost else {
        return Vec::new();
    };
    if !is_operator {
        return vec![*first];
    }
    // An operator has several mutants in a row; those of operands are other ones.
    let of =
        marks.iter().filter(|(mark, is_operator, _)| !is_operator && inside(outer, mark)).map(|mark| mark.2);
    let own: Vec<u32> = of.filter(|number| (*first..*first + 4).contains(number)).collect();
    if own.is_empty() { vec![*first] } else { own }
}

struct Rewriter<'a> {
    source: &'a str,
    wanted: &'a Wanted,
    consts: &'a BTreeSet<String>,
    /// By where what is replaced begins: where it ends, and what takes its place.
    edits: BTreeMap<usize, (usize, String)>,
    done: BTreeSet<u32>,
}

impl Rewriter<'_> {
    /// The text of a range, with the edits inside.
    fn text(&self, range: Range<usize>) -> String {
        let (mut out, mut at) = (String::new(), range.start);
        for (&start, (end, text)) in self.edits.range(range.clone()).filter(|(_, (end, _))| *end <= range.end)
        {
            out += &self.source[at..start];
            out += text;
            at = *end;
        }
        out + &self.source[at..range.end]
    }

    fn of(&self, span: Span) -> String {
        self.text(span.byte_range())
    }

    /// Puts `text`, which holds the edits inside already, in the place of a range.
    fn edit(&mut self, range: Range<usize>, text: String) {
        self.edits.retain(|start, _| !range.contains(start));
        self.edits.insert(range.start, (range.end, text));
    }

    fn find(&self, kind: &str, span: Span) -> Vec<(u32, String)> {
        let start = span.start();
        self.wanted.get(&(kind.to_owned(), start.line, start.column + 1)).cloned().unwrap_or_default()
    }

    fn replace(&mut self, found: &[(u32, String)], span: Span, text: String) {
        self.done.extend(found.iter().map(|(n, _)| *n));
        self.edit(span.byte_range(), text);
    }

    /// Returns values before the body of a function.
    fn body(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let Some(first) = block.stmts.first().map(syn::spanned::Spanned::span) else {
            return;
        };
        // Other iterators are of other types, and a function has one.
        let mut found = self.find("FnValue", first);
        found.retain(|(_, value)| !value.contains("::std::iter"));
        if found.is_empty() {
            return;
        }
        let unit = matches!(signature.output, syn::ReturnType::Default);
        let ends = found.iter().map(|(n, value)| {
            let value = if unit && value.trim() == "()" { "" } else { value };
            format!("/*M{n}*/if crate::mutant({n}) {{ return {value}; }}/*E{n}*/ ")
        });
        let text = ends.collect::<String>() + &self.of(first);
        self.replace(&found, first, text);
    }

    /// Takes the `const` from a function. Returns whether it has to keep it.
    fn stays_const(&mut self, signature: &syn::Signature) -> bool {
        let Some(token) = signature.constness else {
            return false;
        };
        let stays = self.consts.contains(&signature.ident.to_string());
        if !stays {
            self.edit(token.span.byte_range(), String::new());
        }
        stays
    }
}

/// Returns whether a condition binds names, which no other expression can.
fn binds(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => binds(&binary.left) || binds(&binary.right),
        _ => false,
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let tokens = match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            syn::Meta::Path(_) | syn::Meta::NameValue(_) => String::new(),
        };
        attribute.path().is_ident("test") || (attribute.path().is_ident("cfg") && tokens.contains("test"))
    })
}

impl<'ast> Visit<'ast> for Rewriter<'_> {
    // What is computed when it is compiled can ask no switch.
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_type(&mut self, _: &'ast syn::Type) {}
    fn visit_pat(&mut self, _: &'ast syn::Pat) {}

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_for_tests(&item.attrs) && !self.stays_const(&item.sig) {
            visit::visit_item_fn(self, item);
            self.body(&item.sig, &item.block);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) && !self.stays_const(&item.sig) {
            visit::visit_impl_item_fn(self, item);
            self.body(&item.sig, &item.block);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        visit::visit_trait_item_fn(self, item);
        if let Some(block) = &item.default {
            self.body(&item.sig, block);
        }
    }

    fn visit_expr_binary(&mut self, binary: &'ast syn::ExprBinary) {
        use syn::BinOp as Op;

        visit::visit_expr_binary(self, binary);
        let found = self.find("BinaryOperator", binary.op.span());
        let Some(&(tag, _)) = found.first() else {
            return;
        };
        let op = &self.source[binary.op.span().byte_range()];
        let (left, right) = (self.of(binary.left.span()), self.of(binary.right.span()));
        let picks = |l: &str, r: &str| -> String {
            let pick = |(n, other): &(u32, String)| {
                format!("if crate::mutant({n}) {{ /*M{n}*/{l} {other} {r}/*E{n}*/ }} else ")
            };
            found.iter().map(pick).collect()
        };
        let text = match binary.op {
            Op::And(_) | Op::Or(_) if binds(&binary.left) || binds(&binary.right) => return,
            // The right side is looked at only where the left one does not decide.
            Op::And(_) | Op::Or(_) => {
                let goes_on = if matches!(binary.op, Op::And(_)) { "!=" } else { "==" };
                let asked = format!("/*M{tag}*/crate::mutant({tag})/*E{tag}*/");
                format!("(match {left} {{ l_ => if l_ {goes_on} {asked} {{ {right} }} else {{ l_ }} }})")
            }
            Op::Eq(_) | Op::Ne(_) | Op::Lt(_) | Op::Gt(_) | Op::Le(_) | Op::Ge(_) => {
                let picks = picks("*l_", "*r_");
                format!("(match (&({left}), &({right})) {{ (l_, r_) => {picks}{{ *l_ {op} *r_ }} }})")
            }
            Op::Add(_)
            | Op::Sub(_)
            | Op::Mul(_)
            | Op::Div(_)
            | Op::Rem(_)
            | Op::Shl(_)
            | Op::Shr(_)
            | Op::BitAnd(_)
            | Op::BitOr(_)
            | Op::BitXor(_) => {
                let picks = picks("l_", "r_");
                format!("(match ({left}, {right}) {{ (l_, r_) => {picks}{{ l_ {op} r_ }} }})")
            }
            _ => {
                let picks = picks(&left, "r_");
                format!("match {right} {{ r_ => {picks}{{ {left} {op} r_ }} }}")
            }
        };
        self.replace(&found, binary.span(), format!("/*N{tag}*/{text}/*F{tag}*/"));
    }

    fn visit_expr_unary(&mut self, unary: &'ast syn::ExprUnary) {
        visit::visit_expr_unary(self, unary);
        let found = self.find("UnaryOperator", unary.op.span());
        let Some(&(n, _)) = found.first() else {
            return;
        };
        let op = &self.source[unary.op.span().byte_range()];
        let value = self.of(unary.expr.span());
        let pick = format!("if crate::mutant({n}) {{ /*M{n}*/l_/*E{n}*/ }} else {{ {op}l_ }}");
        let text = format!("/*N{n}*/(match {value} {{ l_ => {pick} }})/*F{n}*/");
        self.replace(&found, unary.span(), text);
    }

    fn visit_expr_match(&mut self, of: &'ast syn::ExprMatch) {
        visit::visit_expr_match(self, of);
        let all = |arm: &syn::Arm| matches!(arm.pat, syn::Pat::Wild(_)) && arm.guard.is_none();
        let has_rest = of.arms.iter().any(all);
        for arm in &of.arms {
            let Some((_, guard)) = &arm.guard else {
                let found = self.find("MatchArm", arm.span());
                if let (Some(&(n, _)), true) = (found.first(), has_rest) {
                    let pattern = self.of(arm.pat.span());
                    let text = format!("{pattern} /*M{n}*/if !crate::mutant({n})/*E{n}*/");
                    self.replace(&found, arm.pat.span(), text);
                }
                continue;
            };
            let found = self.find("MatchArmGuard", guard.span());
            if found.is_empty() || binds(guard) {
                continue;
            }
            let mut text = format!("({})", self.of(guard.span()));
            for (n, value) in &found {
                let asked = format!("crate::mutant({n})");
                text = match value.trim() {
                    "true" => format!("/*M{n}*/({asked} || {text})/*E{n}*/"),
                    _ => format!("/*M{n}*/(!{asked} && {text})/*E{n}*/"),
                };
            }
            self.replace(&found, guard.span(), text);
        }
    }

    fn visit_expr_struct(&mut self, of: &'ast syn::ExprStruct) {
        visit::visit_expr_struct(self, of);
        let Some(rest) = &of.rest else {
            return;
        };
        for field in &of.fields {
            let found = self.find("StructField", field.span());
            let (Some(&(n, _)), syn::Member::Named(name)) = (found.first(), &field.member) else {
                continue;
            };
            let (others, value) = (self.of(rest.span()), self.of(field.expr.span()));
            let pick =
                format!("if crate::mutant({n}) {{ /*M{n}*/({others}).{name}/*E{n}*/ }} else {{ {value} }}");
            self.replace(&found, field.span(), format!("{name}: /*N{n}*/{pick}/*F{n}*/"));
        }
    }
}
