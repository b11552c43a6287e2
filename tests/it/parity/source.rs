//! Public names of a crate, read from its source: modules, items, and the members of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use quote::ToTokens as _;
use syn::{
    FnArg, GenericArgument, ImplItem, Item, PathArguments, ReturnType, TraitItem, Type, UseTree, Visibility,
};

/// Place of an item: crate, module path, name.
pub(super) type Place = (String, Vec<String>, String);

/// Types that have another name here than there.
const CALLED: [(&str, &str); 3] =
    [("Ecn", "EcnCodepoint"), ("ErrorCode", "VarInt"), ("SessionStats", "ConnectionStats")];

/// One type, trait, alias or function.
#[derive(Clone, Debug, Default)]
pub(super) struct Def {
    /// Members by name, each with what a caller has to write and gets.
    pub(super) members: BTreeMap<String, String>,
    pub(super) is_module: bool,
    /// Type that an alias stands for.
    alias: Option<Vec<String>>,
}

/// A name that a module takes from elsewhere.
struct Import {
    path: Vec<String>,
    public: bool,
}

#[derive(Default)]
struct Module {
    items: BTreeMap<String, Def>,
    imports: BTreeMap<String, Import>,
    globs: Vec<Vec<String>>,
    public: BTreeSet<String>,
}

/// The sources of some crates, by the names by which they call each other.
#[derive(Default)]
pub(super) struct Sources {
    modules: BTreeMap<(String, Vec<String>), Module>,
    aliases: BTreeMap<String, String>,
}

impl Sources {
    /// Reads a crate; others call it `aliases`, too.
    pub(super) fn read(&mut self, name: &str, root: &Path, aliases: &[&str]) {
        self.aliases.insert(name.to_owned(), name.to_owned());
        self.aliases.extend(aliases.iter().map(|alias| ((*alias).to_owned(), name.to_owned())));
        let mut impls = Vec::new();
        self.file(name, &mut Vec::new(), &root.join("lib.rs"), root, &mut impls);
        for (module, item) in impls {
            self.implement(name, &module, &item);
        }
    }

    fn file(
        &mut self,
        krate: &str,
        module: &mut Vec<String>,
        path: &Path,
        dir: &Path,
        impls: &mut Vec<(Vec<String>, syn::ItemImpl)>,
    ) {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = syn::parse_file(&text).unwrap();
        self.items(krate, module, file.items, dir, impls);
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each kind of item")]
    fn items(
        &mut self,
        krate: &str,
        module: &mut Vec<String>,
        items: Vec<Item>,
        dir: &Path,
        impls: &mut Vec<(Vec<String>, syn::ItemImpl)>,
    ) {
        let key = (krate.to_owned(), module.clone());
        self.modules.entry(key.clone()).or_default();
        for item in items {
            if is_test_only(attrs(&item)) {
                continue;
            }
            let mut define =
                |name: String, vis: &Visibility, members: BTreeMap<String, String>, is_module| {
                    let module = self.modules.get_mut(&key).unwrap();
                    if matches!(vis, Visibility::Public(_)) {
                        module.public.insert(name.clone());
                    }
                    module.items.insert(name, Def { members, is_module, alias: None });
                };
            match item {
                Item::Struct(item) => {
                    let name = item.ident.to_string();
                    let mut members = fields(&item.fields, &name);
                    if item.attrs.iter().any(|attr| {
                        attr.path().is_ident("derive")
                            && attr.to_token_stream().to_string().contains("Default")
                    }) {
                        members.insert("impl Default".to_owned(), "impl".to_owned());
                    }
                    define(name, &item.vis, members, false);
                }
                Item::Enum(item) => {
                    let name = item.ident.to_string();
                    let members = item.variants.iter().map(|variant| {
                        let fields: Vec<_> = variant
                            .fields
                            .iter()
                            .map(|field| {
                                let label = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
                                format!("{label}{}", ty(&field.ty, &name))
                            })
                            .collect();
                        (variant.ident.to_string(), format!("variant({})", fields.join(",")))
                    });
                    define(name.clone(), &item.vis, members.collect(), false);
                }
                Item::Trait(item) => {
                    let name = item.ident.to_string();
                    let members = item.items.iter().filter_map(|member| match member {
                        TraitItem::Fn(f) => Some((format!("{}()", f.sig.ident), signature(&f.sig, &name))),
                        TraitItem::Type(t) => Some((t.ident.to_string(), "type".to_owned())),
                        _ => None,
                    });
                    define(name.clone(), &item.vis, members.collect(), false);
                }
                Item::Type(item) => {
                    let name = item.ident.to_string();
                    define(name.clone(), &item.vis, BTreeMap::new(), false);
                    if let Type::Path(of) = &*item.ty {
                        let path = of.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
                        let module = self.modules.get_mut(&key).unwrap();
                        module.items.get_mut(&name).unwrap().alias = Some(path);
                    }
                }
                Item::Const(item) => define(item.ident.to_string(), &item.vis, BTreeMap::new(), false),
                Item::Fn(item) => {
                    let members = BTreeMap::from([("()".to_owned(), signature(&item.sig, ""))]);
                    define(item.sig.ident.to_string(), &item.vis, members, false);
                }
                Item::Mod(item) => {
                    let name = item.ident.to_string();
                    define(name.clone(), &item.vis, BTreeMap::new(), true);
                    module.push(name.clone());
                    let below = dir.join(&name);
                    match item.content {
                        Some((_, items)) => self.items(krate, module, items, &below, impls),
                        None => {
                            let own: PathBuf = dir.join(format!("{name}.rs"));
                            let path = if own.exists() { own } else { below.join("mod.rs") };
                            self.file(krate, module, &path, &below, impls);
                        }
                    }
                    module.pop();
                }
                Item::Use(item) => {
                    let public = matches!(item.vis, Visibility::Public(_));
                    let module = self.modules.get_mut(&key).unwrap();
                    imports(&item.tree, &mut Vec::new(), public, module);
                }
                Item::Impl(item) => impls.push((module.clone(), item)),
                // `pin_project! { pub struct … }`, and the like of KWIK's own.
                Item::Macro(item) => {
                    let first = item.mac.tokens.clone().into_iter().next().map(|first| first.to_string());
                    match (item.mac.path.segments.last().map(|last| last.ident.to_string()), first) {
                        // These two are KWIK's own; each says what it makes first.
                        (Some(name), Some(first)) if name == "future" => {
                            let members = BTreeMap::from([("impl Future".to_owned(), "impl".to_owned())]);
                            let all = Visibility::Public(syn::token::Pub::default());
                            define(first, &all, members, false);
                            continue;
                        }
                        (Some(name), Some(first)) if name == "async_write" => {
                            let of = syn::Ident::new(&first, proc_macro2::Span::call_site());
                            impls.push((module.clone(), syn::parse_quote!(impl AsyncWrite for #of {})));
                            continue;
                        }
                        _ => {}
                    }
                    if let Ok(file) = item.mac.parse_body_with(syn::File::parse_items) {
                        self.items(krate, module, file, dir, impls);
                    }
                }
                _ => {}
            }
        }
    }

    fn implement(&mut self, krate: &str, module: &[String], item: &syn::ItemImpl) {
        let Type::Path(of) = &*item.self_ty else { return };
        let path: Vec<String> = of.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let Some((krate, module, name)) = self.resolve(krate, module, &path) else { return };
        let Some(def) = self.modules.get_mut(&(krate, module)).and_then(|module| module.items.get_mut(&name))
        else {
            return;
        };
        if let Some((_, of_trait, _)) = &item.trait_ {
            let of_trait =
                tokens(&ty(&Type::Path(syn::TypePath { qself: None, path: of_trait.clone() }), &name));
            let counted = ["From<", "TryFrom<", "Future", "IntoFuture", "AsyncRead", "AsyncWrite", "Default"];
            if counted.iter().any(|start| of_trait.starts_with(start)) {
                def.members.insert(format!("impl {of_trait}"), "impl".to_owned());
            }
            return;
        }
        for member in &item.items {
            match member {
                ImplItem::Fn(f) if matches!(f.vis, Visibility::Public(_)) && !is_test_only(&f.attrs) => {
                    def.members.insert(format!("{}()", f.sig.ident), signature(&f.sig, &name));
                }
                ImplItem::Const(c) if matches!(c.vis, Visibility::Public(_)) => {
                    def.members.insert(c.ident.to_string(), format!("const {}", ty(&c.ty, &name)));
                }
                _ => {}
            }
        }
    }

    /// Returns where `path`, as `module` writes it, is defined.
    fn resolve(&self, krate: &str, module: &[String], path: &[String]) -> Option<Place> {
        self.resolve_at(krate, module, path, 0)
    }

    fn resolve_at(&self, krate: &str, module: &[String], path: &[String], depth: usize) -> Option<Place> {
        if depth > 20 {
            return None;
        }
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => return self.resolve_at(krate, &[], rest, depth + 1),
            "self" => return self.resolve_at(krate, module, rest, depth + 1),
            "super" => return self.resolve_at(krate, module.split_last()?.1, rest, depth + 1),
            _ => {}
        }
        let here = self.modules.get(&(krate.to_owned(), module.to_vec()))?;
        if here.items.contains_key(first) {
            if let Some(alias) = here.items[first].alias.as_ref().filter(|_| rest.is_empty()) {
                return self.resolve_at(krate, module, alias, depth + 1);
            }
            if rest.is_empty() {
                return Some((krate.to_owned(), module.to_vec(), first.clone()));
            }
            return self.resolve_at(krate, &[module, std::slice::from_ref(first)].concat(), rest, depth + 1);
        }
        if let Some(import) = here.imports.get(first) {
            let whole = [import.path.as_slice(), rest].concat();
            if whole != path {
                return self.resolve_at(krate, module, &whole, depth + 1);
            }
        }
        for glob in &here.globs {
            let whole = [glob.as_slice(), path].concat();
            if let Some(found) = self.resolve_at(krate, module, &whole, depth + 1) {
                return Some(found);
            }
        }
        let other = self.aliases.get(first)?;
        self.resolve_at(other, &[], rest, depth + 1)
    }

    /// Returns what `krate` makes public, by the path that a user writes, with its place.
    pub(super) fn public(&self, krate: &str) -> BTreeMap<String, Place> {
        let mut found = BTreeMap::new();
        self.public_of(krate, &[], "", &mut found);
        found
    }

    fn public_of(&self, krate: &str, module: &[String], prefix: &str, found: &mut BTreeMap<String, Place>) {
        let here = &self.modules[&(krate.to_owned(), module.to_vec())];
        let imported = here.imports.iter().filter(|(_, import)| import.public).map(|(name, _)| name);
        for name in here.public.iter().chain(imported) {
            let Some(place) = self.resolve(krate, module, std::slice::from_ref(name)) else { continue };
            if self.def(&place).is_module {
                let inner = [place.1.as_slice(), std::slice::from_ref(&place.2)].concat();
                self.public_of(&place.0, &inner, &format!("{prefix}{name}::"), found);
            } else {
                found.insert(format!("{prefix}{name}"), place);
            }
        }
    }

    pub(super) fn def(&self, place: &Place) -> &Def {
        &self.modules[&(place.0.clone(), place.1.clone())].items[&place.2]
    }
}

trait ParseItems {
    fn parse_items(input: syn::parse::ParseStream<'_>) -> syn::Result<Vec<Item>>;
}

impl ParseItems for syn::File {
    fn parse_items(input: syn::parse::ParseStream<'_>) -> syn::Result<Vec<Item>> {
        let mut items = Vec::new();
        while !input.is_empty() {
            items.push(input.parse()?);
        }
        Ok(items)
    }
}

fn attrs(item: &Item) -> &[syn::Attribute] {
    match item {
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Code that no user of the crate has: of tests, of fuzzing, of browsers.
fn is_test_only(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().filter(|attr| attr.path().is_ident("cfg")).any(|attr| {
        let text = attr.to_token_stream().to_string();
        let inner = text.split_once("cfg").map_or("", |(_, inner)| inner.trim_end_matches(']')).trim();
        let positive = inner.replace("not (wasm_browser)", "").replace(' ', "");
        ["test", "fuzzing", "feature=\"arbitrary\"", "wasm_browser", "feature=\"__rustls-post-quantum-test\""]
            .iter()
            .any(|off| positive.contains(off))
    })
}

fn imports(tree: &UseTree, path: &mut Vec<String>, public: bool, module: &mut Module) {
    match tree {
        UseTree::Path(tree) => {
            path.push(tree.ident.to_string());
            imports(&tree.tree, path, public, module);
            path.pop();
        }
        UseTree::Name(tree) => {
            let name = tree.ident.to_string();
            let mut whole = path.clone();
            if name != "self" {
                whole.push(name.clone());
            }
            let bound = if name == "self" { path.last().cloned().unwrap_or_default() } else { name };
            module.imports.insert(bound, Import { path: whole, public });
        }
        UseTree::Rename(tree) => {
            let mut whole = path.clone();
            if tree.ident != "self" {
                whole.push(tree.ident.to_string());
            }
            module.imports.insert(tree.rename.to_string(), Import { path: whole, public });
        }
        UseTree::Glob(_) => module.globs.push(path.clone()),
        UseTree::Group(tree) => tree.items.iter().for_each(|tree| imports(tree, path, public, module)),
    }
}

fn fields(fields: &syn::Fields, of: &str) -> BTreeMap<String, String> {
    let public = fields.iter().filter(|field| matches!(field.vis, Visibility::Public(_)));
    public
        .filter(|field| !is_test_only(&field.attrs))
        .filter_map(|field| Some((field.ident.as_ref()?.to_string(), format!("field {}", ty(&field.ty, of)))))
        .collect()
}

/// A signature as a caller sees it: the receiver, types by their last name, what comes of it.
fn signature(sig: &syn::Signature, of: &str) -> String {
    let inputs: Vec<_> = sig
        .inputs
        .iter()
        .map(|input| match input {
            FnArg::Receiver(receiver) => match (&receiver.reference, &receiver.mutability, &*receiver.ty) {
                (Some(_), Some(_), _) => "&mut self".to_owned(),
                (Some(_), None, _) => "&self".to_owned(),
                (None, _, Type::Path(path)) if path.path.is_ident("Self") => "self".to_owned(),
                (None, _, other) => format!("self:{}", ty(other, of)),
            },
            FnArg::Typed(typed) => ty(&typed.ty, of),
        })
        .collect();
    let output = match &sig.output {
        ReturnType::Default => "()".to_owned(),
        ReturnType::Type(_, output) => ty(output, of),
    };
    let output = if sig.asyncness.is_some() { format!("async {output}") } else { output };
    format!("({})->{output}", inputs.join(","))
}

/// A type by the last names of its paths, without lifetimes; `Self` by its name.
fn ty(of: &Type, own: &str) -> String {
    match of {
        Type::Path(path) => {
            let Some(last) = path.path.segments.last() else { return String::new() };
            let name = if last.ident == "Self" { own.to_owned() } else { last.ident.to_string() };
            let name =
                CALLED.iter().find(|(here, _)| *here == name).map_or(name, |(_, there)| (*there).to_owned());
            match &last.arguments {
                PathArguments::AngleBracketed(arguments) => {
                    let inner: Vec<_> = arguments
                        .args
                        .iter()
                        .filter_map(|argument| match argument {
                            // The adapter's runtime, which quinn has as an object.
                            GenericArgument::Type(Type::Path(inner)) if inner.path.is_ident("R") => None,
                            GenericArgument::Type(inner) => Some(ty(inner, own)),
                            GenericArgument::AssocType(inner) => {
                                Some(format!("{}={}", inner.ident, ty(&inner.ty, own)))
                            }
                            _ => None,
                        })
                        .collect();
                    if inner.is_empty() { name } else { format!("{name}<{}>", inner.join(",")) }
                }
                PathArguments::None | PathArguments::Parenthesized(_) => name,
            }
        }
        Type::Reference(reference) => {
            let mutable = if reference.mutability.is_some() { "mut " } else { "" };
            format!("&{mutable}{}", ty(&reference.elem, own))
        }
        Type::Tuple(tuple) => {
            format!("({})", tuple.elems.iter().map(|elem| ty(elem, own)).collect::<Vec<_>>().join(","))
        }
        Type::Slice(slice) => format!("[{}]", ty(&slice.elem, own)),
        Type::TraitObject(object) => format!("dyn {}", bounds(&object.bounds, own)),
        Type::ImplTrait(object) => {
            let bounds = bounds(&object.bounds, own);
            match bounds.strip_prefix("Future<Output=").and_then(|rest| rest.split_once(">+")) {
                Some((output, _)) => format!("async {output}"),
                None => match bounds.strip_prefix("Future<Output=").and_then(|rest| rest.strip_suffix('>')) {
                    Some(output) => format!("async {output}"),
                    None => format!("impl {bounds}"),
                },
            }
        }
        Type::Paren(inner) => ty(&inner.elem, own),
        other => tokens(&other.to_token_stream().to_string()),
    }
}

fn bounds(bounds: &syn::punctuated::Punctuated<syn::TypeParamBound, syn::token::Plus>, own: &str) -> String {
    let bounds: Vec<_> = bounds
        .iter()
        .filter_map(|bound| match bound {
            syn::TypeParamBound::Trait(bound) => {
                let whole = ty(&Type::Path(syn::TypePath { qself: None, path: bound.path.clone() }), own);
                (!["Send", "Sync"].contains(&whole.as_str())).then_some(whole)
            }
            _ => None,
        })
        .collect();
    bounds.join("+")
}

fn tokens(text: &str) -> String {
    text.replace(' ', "")
}
